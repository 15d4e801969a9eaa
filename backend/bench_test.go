package backend

import (
	"testing"
	"time"
)

func loaded(b *testing.B, n int) *Backend {
	s := open(b, Config{NoSync: true})
	for i := 2; i < n+2; i++ {
		put(s, i, "a value of some thirty bytes...")
	}
	flush(b, s)
	return s
}

func BenchmarkView(b *testing.B) {
	s := loaded(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		s.View().Close()
	}
	must(b, s.Close())
}

func BenchmarkGetFromFile(b *testing.B) {
	s := loaded(b, 200000)
	v := s.View()
	key := revKey(2)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key[5], key[6], key[7] = byte(i%3), byte(i>>3), byte(i|2)
		if v.Get(key) == nil && i%3 < 3 {
			b.Fatal(i)
		}
	}
	v.Close()
	must(b, s.Close())
}

func BenchmarkGetFromRun(b *testing.B) {
	s := open(b, Config{BatchInterval: time.Hour})
	for i := 2; i < 9000; i++ {
		put(s, i, "value")
	}
	v := s.View()
	key := revKey(2)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key[6], key[7] = byte(i%30), byte(i|2)
		if v.Get(key) == nil {
			b.Fatal(i)
		}
	}
	v.Close()
	must(b, s.Close())
}

// BenchmarkEntry includes the commits in the background.
func BenchmarkEntry(b *testing.B) {
	s := open(b, Config{})
	value := make([]byte, 100)
	b.ReportAllocs()
	for i := 2; b.Loop(); i++ {
		e := s.Begin()
		e.Append(revKey(i), value)
		e.Commit(uint64(i), 1)
	}
	must(b, s.Close())
}
