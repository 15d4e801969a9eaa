package server

import (
	"errors"
	"fmt"
	"syscall"

	"go.uber.org/zap"
)

// advise adds what an operator can do about a failure of the machine.
func advise(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: nothing that was acknowledged is lost; free space on that disk and start the member again", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: nothing that was acknowledged is lost; a disk that turned read-only may be failing", err)
	}
	return err
}

// crampedLog is told when the log cannot start its next segment.
func (s *Server) crampedLog(err error) {
	s.logger.Error("cannot prepare the next segment of the log; when this disk is full the member will stop: free space",
		zap.String("wal-dir", s.dir.wal), zap.Error(err))
}
