package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// ParseURLs reads a comma-separated list of URLs: http://host:port, https://host:port, unix://path or unixs://path.
// The result is sorted, as it is when a member's identity is computed from it.
func ParseURLs(list string) ([]url.URL, error) {
	var urls []url.URL
	for text := range strings.SplitSeq(list, ",") {
		u, err := parseURL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		urls = append(urls, *u)
	}
	slices.SortFunc(urls, func(a, b url.URL) int { return strings.Compare(a.String(), b.String()) })
	return urls, nil
}

func parseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, fmt.Errorf("empty URL, expected something like %s", DefaultListenClientURL)
	}
	if !strings.Contains(text, "://") {
		return nil, fmt.Errorf("URL %q has no scheme, expected http://%s", text, text)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, fmt.Errorf("URL address does not have the form \"host:port\": %s", text)
		}
		if u.Path != "" {
			return nil, fmt.Errorf("URL must not contain a path: %s", text)
		}
	case "unix", "unixs":
		if u.Host+u.Path == "" {
			return nil, fmt.Errorf("URL has no socket path: %s", text)
		}
	default:
		return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
	}
	return u, nil
}

// ParseInitialCluster reads "name1=http://host:2380,name2=http://host:2380"; a name may occur several times, once for
// each of its URLs. The result is sorted by name.
func ParseInitialCluster(text string) ([]Member, error) {
	byName := map[string][]string{}
	for pair := range strings.SplitSeq(text, ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || name == "" || address == "" {
			return nil, fmt.Errorf("%q is not of the form name=peerURL", pair)
		}
		u, err := parseURL(address)
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", name, err)
		}
		byName[name] = append(byName[name], u.String())
	}
	members := make([]Member, 0, len(byName))
	owner := map[string]string{}
	for name, urls := range byName {
		slices.Sort(urls)
		members = append(members, Member{Name: name, PeerURLs: slices.Compact(urls)})
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range members {
		for _, u := range m.PeerURLs {
			if other, taken := owner[u]; taken {
				return nil, fmt.Errorf("members %s and %s have the same peer URL %s", other, m.Name, u)
			}
			owner[u] = m.Name
		}
	}
	return members, nil
}

// FormatInitialCluster is the inverse of ParseInitialCluster.
func FormatInitialCluster(members []Member) string {
	var pairs []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			pairs = append(pairs, m.Name+"="+u)
		}
	}
	return strings.Join(pairs, ",")
}

func mustURLs(list string) []url.URL {
	urls, err := ParseURLs(list)
	if err != nil {
		panic(err) // only called with constants
	}
	return urls
}

func urlStrings(urls []url.URL) []string {
	texts := make([]string, len(urls))
	for i := range urls {
		texts[i] = urls[i].String()
	}
	return texts
}

// URLStrings writes URLs as they are advertised.
func URLStrings(urls []url.URL) []string { return urlStrings(urls) }
