package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

const programName = "upkeepctl"

// app is what all commands share: the process's streams and the global flags.
type app struct {
	in   io.Reader
	out  io.Writer
	err  io.Writer
	opts globalOptions
	// quiet keeps the client library from telling of every try, in commands that etcdctl does not have; --debug wins.
	quiet bool
}

// Run executes one command line and returns the exit status of the process.
func Run(args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	code, message := statusOf(err)
	// Cobra has already reported what it found itself: unknown commands and flags.
	if root.SilenceErrors && message != "" {
		fmt.Fprintln(errOut, "Error:", message)
	}
	return code
}

const (
	groupKV      = "kv"
	groupCluster = "cluster"
	groupAuth    = "auth"
	groupOffline = "offline"
	groupUtility = "utility"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   programName,
		Short: "The command line client and offline tool of Upkeep.",
	}
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		// From here on the command line itself was fine: no usage after an error.
		cmd.SilenceUsage, root.SilenceErrors = true, true
	}
	a.opts.register(root)

	root.AddGroup(
		&cobra.Group{ID: groupKV, Title: "Key-value commands"},
		&cobra.Group{ID: groupCluster, Title: "Cluster maintenance commands"},
		&cobra.Group{ID: groupAuth, Title: "Authentication commands"},
		&cobra.Group{ID: groupOffline, Title: "Commands for files that no server has open"},
		&cobra.Group{ID: groupUtility, Title: "Utility commands"},
	)
	addGroup(root, groupKV,
		newGet(a), newPut(a), newDel(a), newTxn(a), newCompaction(a), newWatch(a), newLease(a),
		newLock(a), newElect(a))
	addGroup(root, groupCluster,
		newMember(a), newEndpoint(a), newAlarm(a), newDefrag(a), newSnapshot(a), newMoveLeader(a), newMaintenance(a),
		newDowngrade(a), newMakeMirror(a))
	addGroup(root, groupAuth, newAuth(a), newUser(a), newRole(a))
	addGroup(root, groupOffline, newHashKV(a), newCheck(a), newMigrate(a), newBackup(a), newRestore(a))
	addGroup(root, groupUtility, newVersion(a), newOptions(a), newCompletion(a))
	root.SetHelpCommandGroupID(groupUtility)
	root.CompletionOptions.DisableDefaultCmd = true
	root.InitDefaultHelpFlag()
	if help := root.Flags().Lookup("help"); help != nil {
		help.Hidden = true
	}
	root.SetHelpTemplate(root.HelpTemplate() + fmt.Sprintf(
		"\nUse \"%s options\" for a list of global command-line options (applies to all commands).\n", programName))
	foldHelp(root)
	return root
}

func addGroup(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = group
		root.AddCommand(cmd)
	}
}
