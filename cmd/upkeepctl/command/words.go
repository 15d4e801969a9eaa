package command

import (
	"strconv"
	"strings"
	"unicode"
)

// splitWords splits a line of a transaction or an interactive watch. A word
// that starts with a quote ends at the matching quote and may hold blanks;
// inside double quotes Go's escapes apply. A quote without its match is dropped.
//
//	put "a b" 'c d' e"f   =>   put | a b | c d | e"f
func splitWords(line string) []string {
	var words []string
	for {
		line = strings.TrimLeftFunc(line, unicode.IsSpace)
		if line == "" {
			return words
		}
		if end := quotedEnd(line); end > 0 {
			words = append(words, unquote(line[:end]))
			line = line[end:]
			continue
		}
		end := strings.IndexFunc(line, unicode.IsSpace)
		if end < 0 {
			end = len(line)
		}
		words = append(words, strings.TrimLeft(line[:end], `"'`))
		line = line[end:]
	}
}

// quotedEnd returns where the quoted word at the start of line ends, 0 if there is none.
func quotedEnd(line string) int {
	quote := line[0]
	if quote != '"' && quote != '\'' {
		return 0
	}
	for i := 1; i < len(line); i++ {
		switch {
		case line[i] == '\\' && quote == '"':
			i++
		case line[i] == quote:
			return i + 1
		}
	}
	return 0
}

func unquote(word string) string {
	if word[0] == '"' {
		if s, err := strconv.Unquote(word); err == nil {
			return s
		}
	}
	return word[1 : len(word)-1]
}
