package main

// authMutations let somebody do what he may not.
func authMutations() []mutation {
	rpcReads := []suite{{"server/rpc", "TestReadsAreChecked"}}
	applied := []suite{{"server/apply", "TestScripts"}}
	rules := []suite{{"server/auth", "TestScripts|TestCoverage"}}
	tokens := []suite{{"server/auth", "TestSimpleTokensLive|TestTokenOfAnotherMember|TestForgedTokens"}}
	return []mutation{{
		what:    "auth: a range is judged by its start",
		file:    "server/auth/permission.go",
		old:     "return bytes.Compare(end, key) <= 0 || compareEnds(end, found.end) <= 0",
		mutated: "return true",
		tests:   rules,
	}, {
		what:    "auth: ranges that touch do not add up",
		file:    "server/auth/permission.go",
		old:     "bytes.Compare(end, begin) >= 0 }",
		mutated: "bytes.Compare(end, begin) > 0 }",
		tests:   rules,
	}, {
		what:    "auth: an old revision does",
		file:    "server/auth/check.go",
		old:     "case id.Revision < now.revision:",
		mutated: "case false:",
		tests:   append(applied, suite{"server/auth", "TestScripts"}),
	}, {
		what:    "auth: a changed role keeps what its holders could do",
		file:    "server/auth/roles.go",
		old:     "			next.users[username] = newUser(u.User)\n",
		mutated: "			next.users[username] = u\n",
		tests:   rules,
	}, {
		what:    "auth: a changed password leaves the tokens of the old one alive",
		file:    "server/auth/users.go",
		old:     "	s.simple.drop(func(username string) bool { return username == r.Name })\n",
		mutated: "",
		tests:   []suite{{"tests/cluster", "TestTokensAtEveryMember"}},
	}, {
		what:    "auth: an idle token lives until it is swept",
		file:    "server/auth/token.go",
		old:     "if idle >= int64(t.ttl) {",
		mutated: "if false {",
		tests:   tokens,
	}, {
		what:    "auth: a member refuses a token that it has yet to hear of",
		file:    "server/auth/token.go",
		old:     "if !ok && s.issuedLater(token) {",
		mutated: "if false {",
		tests:   tokens,
	}, {
		what:    "auth: a token may be signed by any method",
		file:    "server/auth/jwt.go",
		old:     "jwt.NewParser(jwt.WithValidMethods([]string{s.method.Alg()}))",
		mutated: "jwt.NewParser()",
		tests:   tokens,
	}, {
		what:    "auth: a state transfer leaves the users as they were",
		file:    "server/apply/machine.go",
		old:     "	if err := m.Auth.Reload(view); err != nil {\n		return err\n	}\n",
		mutated: "",
		tests:   []suite{{"server/apply", "TestRestoreBringsUsers"}},
	}, {
		what:    "auth: comparisons tell what may not be read",
		file:    "server/apply/auth.go",
		old:     "		if err := p.CheckRead(id, c.Key, c.RangeEnd); err != nil {\n			return err\n		}\n",
		mutated: "		_ = c\n",
		tests:   append(applied, rpcReads...),
	}, {
		what:    "auth: nested transactions do what may not be done",
		file:    "server/apply/auth.go",
		old:     "				err = authorizeTxn(p, id, op.RequestTxn, put)\n",
		mutated: "",
		tests:   applied,
	}, {
		what:    "auth: a lease with another's keys can be revoked",
		file:    "server/apply/auth.go",
		old:     "		return m.authorizeLease(id, r.LeaseRevoke.ID)\n",
		mutated: "		return nil\n",
		tests:   append(applied, suite{"tests/cluster", "TestLeasesOfUsers"}),
	}, {
		what:    "auth: an answer is given although users changed meanwhile",
		file:    "server/rpc/kv.go",
		old:     "	if err := allowed.fresh(); err != nil {\n		return nil, err\n	}\n",
		mutated: "",
		tests:   rpcReads,
	}, {
		what:    "auth: a password is not looked at again",
		file:    "server/rpc/auth.go",
		old:     "if done.Identity.Revision != checked {",
		mutated: "if false && checked == 0 {",
		tests:   []suite{{"server/rpc", "TestAuthenticateAgain"}},
	}, {
		what:    "auth: the gateway's certificate is taken for its client's",
		file:    "server/rpc/access.go",
		old:     "c.certificates && !throughGateway(ctx)",
		mutated: "c.certificates",
		tests:   []suite{{"server/rpc", "TestCertificateUsers"}},
	}, {
		what:    "auth: anybody may have the hash of the database",
		file:    "server/rpc/maintenance.go",
		old:     "	if err := s.requireRoot(ctx); err != nil {\n		return nil, err\n	}\n	sum, err",
		mutated: "	sum, err",
		tests:   []suite{{"server/rpc", "TestNothingIsForNobody"}},
	}, {
		what:    "auth: the server's own revocations are nobody's",
		file:    "server/loops.go",
		old:     "root.Username != \"\" {",
		mutated: "false {",
		tests:   []suite{{"tests/cluster", "TestLeasesOfUsers"}},
	}}
}
