// Upkeepctl is the client and the offline tool of Upkeep.
//
//	upkeepctl put greeting hello
//	upkeepctl get greeting
//	upkeepctl endpoint status --cluster -w table
//	upkeepctl snapshot save /backup/db && upkeepctl snapshot status /backup/db
//
// It takes etcdctl's and etcdutl's command lines and answers in their words,
// so scripts written for those work with it unchanged.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/command"
)

func main() {
	cobra.EnablePrefixMatching = true // `upkeepctl mem li`, as etcdctl allows
	os.Exit(command.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
