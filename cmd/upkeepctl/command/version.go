package command

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/version"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version of " + programName,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintf(a.out, "%s version: %s\nAPI version: %s\n", programName, version.Version, version.APIVersion)
		},
	}
}

func newCompletion(a *app) *cobra.Command {
	generators := map[string]func(root *cobra.Command, out io.Writer) error{
		"bash":       func(root *cobra.Command, out io.Writer) error { return root.GenBashCompletionV2(out, true) },
		"zsh":        func(root *cobra.Command, out io.Writer) error { return root.GenZshCompletion(out) },
		"fish":       func(root *cobra.Command, out io.Writer) error { return root.GenFishCompletion(out, true) },
		"powershell": func(root *cobra.Command, out io.Writer) error { return root.GenPowerShellCompletionWithDesc(out) },
	}
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion [bash|zsh|fish|powershell]",
		Short: "Generates a completion script for a shell",
		Long: fmt.Sprintf(`Generates a completion script, e.g. for the running bash:

  $ source <(%[1]s completion bash)

or for every new shell:

  $ %[1]s completion bash > /etc/bash_completion.d/%[1]s
  $ %[1]s completion zsh > "${fpath[1]}/_%[1]s"
  $ %[1]s completion fish > ~/.config/fish/completions/%[1]s.fish
`, programName),
		DisableFlagsInUseLine: true,
		ValidArgs:             shells,
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return generators[args[0]](cmd.Root(), a.out)
		},
	}
}
