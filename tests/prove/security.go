package main

// securityMutations let in who must stay outside, or keep out who may come in.
func securityMutations() []mutation {
	connect := []suite{{"server/tlsconfig", "TestWhoMayConnect"}}
	return []mutation{{
		what:    "TLS: an authority alone asks nobody for a certificate",
		file:    "server/tlsconfig/settings.go",
		old:     `(s.ClientCertAuth || s.TrustedCAFile != "") && !s.SelfSigned()`,
		mutated: `s.ClientCertAuth && !s.SelfSigned()`,
		tests:   connect,
	}, {
		what:    "TLS: revoked certificates are let in",
		file:    "server/tlsconfig/keyring.go",
		old:     "if err := list.check(state.PeerCertificates); err != nil {",
		mutated: "if err := list.check(nil); err != nil {",
		tests:   connect,
	}, {
		what:    "TLS: allowed names are not compared",
		file:    "server/tlsconfig/keyring.go",
		old:     "	return errNotAllowed\n",
		mutated: "	return nil\n",
		tests:   connect,
	}, {
		what:    "TLS: a peer may come from anywhere",
		file:    "server/tlsconfig/keyring.go",
		old:     "r.kind == Peer && !r.settings.SkipClientSANVerification &&",
		mutated: "r.kind == Peer && r.settings.SkipClientSANVerification &&",
		tests:   connect,
	}, {
		what:    "TLS: a renewed certificate is not read",
		file:    "server/tlsconfig/files.go",
		old:     "if w.mu.loaded && equal(contents, w.mu.contents) {",
		mutated: "if w.mu.loaded {",
		tests:   []suite{{"server/tlsconfig", "TestFilesMayChange"}, {"tests/cluster", "TestCertificatesExpireAndAreRenewed"}},
	}, {
		what:    "TLS: one slow handshake holds all others up",
		file:    "server/tlsconfig/listener.go",
		old:     "l.tasks.Go(func() { l.handshake(conn) })",
		mutated: "l.handshake(conn)",
		tests:   []suite{{"server/tlsconfig", "TestHalfOpenHandshakes"}},
	}, {
		what:    "TLS: a handshake may take for ever",
		file:    "server/tlsconfig/listener.go",
		old:     "context.WithTimeout(l.ctx, HandshakeTimeout)",
		mutated: "context.WithCancel(l.ctx)",
		tests:   []suite{{"server/tlsconfig", "TestHalfOpenHandshakes"}},
	}, {
		what:    "TLS: a peer URL of https is dialled without",
		file:    "raftnode/transport/address.go",
		old:     "if err != nil || !isSecure(address) {",
		mutated: "if err == nil || !isSecure(address) {",
		tests:   []suite{{"raftnode/transport", "TestSecureURLsNeedTheirHandshake"}},
	}, {
		what:    "TLS: services of gRPC do not see the client's certificate",
		file:    "server/tlsconfig/credentials.go",
		old:     "	if !ok {\n		return t.",
		mutated: "	if ok || !ok {\n		return t.",
		tests:   []suite{{"server/httpapi", "TestSecurePort"}},
	}, {
		what:    "TLS: the client's answer to our settings reaches the server behind",
		file:    "server/httpapi/firstrequest.go",
		old:     "		if _, err := c.frames.Discard(frameHeaderBytes); err != nil {\n			return 0, err\n		}\n",
		mutated: "",
		tests:   []suite{{"server/httpapi", "TestFirstRequestDecides|TestSecurePort"}},
	}}
}
