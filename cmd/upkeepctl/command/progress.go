package command

import (
	"os"
	"time"

	progressbar "github.com/cheggaaa/pb/v3"
	"golang.org/x/term"
)

// progress shows how far long work is, on a terminal only. The zero of
// everything it does is nothing, so callers need not ask.
type progress struct{ bar *progressbar.ProgressBar }

const (
	sizedBar   = `{{string . "prefix"}} {{counters . }} {{bar . }} {{percent . }} {{speed . }} {{rtime . "ETA %s"}}`
	elapsedBar = `{{string . "prefix"}} {{cycle . "|" "/" "-" "\\"}} {{etime . }}`
)

// startProgress begins to show work called what; where its size will be told
// with set, sized is true.
func (a *app) startProgress(what string, sized bool) *progress {
	file, ok := a.err.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return &progress{}
	}
	template := progressbar.ProgressBarTemplate(elapsedBar)
	if sized {
		template = sizedBar
	}
	bar := template.New(0)
	bar.Set("prefix", what)
	bar.Set(progressbar.Bytes, true)
	bar.Set(progressbar.SIBytesPrefix, true)
	bar.SetWriter(file)
	bar.SetRefreshRate(100 * time.Millisecond)
	return &progress{bar: bar.Start()}
}

// set tells how many bytes of how many are done.
func (p *progress) set(done, total int64) {
	if p.bar == nil {
		return
	}
	if total > 0 {
		p.bar.SetTotal(total)
	}
	p.bar.SetCurrent(done)
}

// setPhase is set for work in phases, each with bytes of its own.
func (p *progress) setPhase(phase string, done, total int64) {
	if p.bar != nil {
		p.bar.Set("prefix", phase)
	}
	p.set(done, total)
}

// end leaves the finished line on the terminal.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
