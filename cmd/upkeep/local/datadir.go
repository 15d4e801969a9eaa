package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// layoutFile is in the data directory and says what was started in it. It also marks the directory as one of ours,
// which --fresh may empty.
const layoutFile = "upkeep-local.json"

// layout is what must not change from one run to the next: the members know each other by these addresses.
type layout struct {
	Members  int `json:"members"`
	BasePort int `json:"basePort"`
}

// planDir sets the layout of o to that of the last run, unless it is to start over. It changes nothing on disk.
func planDir(o *options) (last *layout, err error) {
	last, err = readLayout(o.dataDir)
	if err != nil || last == nil || o.fresh {
		return last, err
	}
	if o.membersGiven && o.members != last.Members {
		return nil, fmt.Errorf("%s holds a cluster of %d members; --fresh starts over with --members=%d", o.dataDir, last.Members, o.members)
	}
	if o.basePortGiven && o.basePort != last.BasePort {
		return nil, fmt.Errorf("%s holds a cluster whose first port is %d; --fresh starts over with --base-port=%d", o.dataDir, last.BasePort, o.basePort)
	}
	o.members, o.basePort = last.Members, last.BasePort
	return last, nil
}

// prepareDir makes the data directory ready: it deletes the last run's data if it is to start over, and notes the
// layout. The directory is this program's alone until release is called or the program ends.
func prepareDir(o *options, last *layout) (release func(), err error) {
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(o.dataDir, layoutFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("--data-dir: %s is in use by another upkeep local", o.dataDir), file.Close())
	}
	if last != nil && o.fresh {
		err = removeMembers(o.dataDir, last)
	}
	if err == nil && (last == nil || o.fresh) {
		err = writeLayout(file, layout{o.members, o.basePort})
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { file.Close() }, nil
}

func writeLayout(file *os.File, l layout) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err = file.WriteAt(append(text, '\n'), 0)
	return err
}

// readLayout returns nil if the directory is new or empty, and an error if it holds something else.
func readLayout(dir string) (*layout, error) {
	text, err := os.ReadFile(filepath.Join(dir, layoutFile))
	if err == nil {
		last := &layout{}
		if err := json.Unmarshal(text, last); err != nil || last.Members < 1 {
			return nil, fmt.Errorf("--data-dir: %s is damaged; remove %s to start over", filepath.Join(dir, layoutFile), dir)
		}
		return last, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("--data-dir: %w", err)
	case len(entries) > 0:
		return nil, fmt.Errorf("--data-dir: %s is not empty and was not made by upkeep local", dir)
	}
	return nil, nil
}

// removeMembers deletes what earlier runs have made, and nothing else.
func removeMembers(dir string, last *layout) error {
	for _, s := range (&options{members: last.Members, basePort: last.BasePort, dataDir: dir}).specs() {
		if err := os.RemoveAll(s.dataDir); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	return nil
}
