package gateway

import "testing"

// TestLocksAndElections: the services, with all their refusals, on leases whose IDs are chosen here.
func TestLocksAndElections(t *testing.T) {
	t.Parallel()
	compare(t, []request{
		post("/v3/lease/grant", `{"TTL":"600","ID":"77"}`), post("/v3/lease/grant", `{"TTL":"600","ID":"-78"}`),
		post("/v3/lock/lock", `{"name":"aGk=","lease":"77"}`), post("/v3/lock/lock", `{"name":"aGk=","lease":77}`),
		post("/v3/lock/lock", `{"lease":"-78"}`), post("/v3/lock/lock", `{"name":"aGk=","lease":"79"}`),
		post("/v3/lock/lock", `{"name":"bogus*"}`),
		post("/v3/kv/range", `{"key":"AA==","range_end":"AA=="}`),
		post("/v3/lock/unlock", `{}`), post("/v3/lock/unlock", `{"key":"YQ=="}`),
		post("/v3/lock/unlock", `{"key":"aGkvNGQ="}`), post("/v3/lock/unlock", `{"key":"aGkvNGQ="}`),
		post("/v3/election/leader", `{"name":"ZQ=="}`), post("/v3/election/leader", `{}`),
		post("/v3/election/campaign", `{"name":"ZQ==","lease":"77","value":"dg=="}`),
		post("/v3/election/campaign", `{"name":"ZQ==","lease":"77","value":"dw=="}`),
		post("/v3/election/campaign", `{"name":"ZQ==","lease":"79","value":"dw=="}`),
		post("/v3/election/leader", `{"name":"ZQ=="}`),
		stream("/v3/election/observe", `{"name":"ZQ=="}`, 1),
		post("/v3/election/proclaim", `{}`), post("/v3/election/resign", `{}`),
		post("/v3/election/proclaim", `{"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":"7","lease":"77"},"value":"eA=="}`),
		post("/v3/election/proclaim", `{"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":"6","lease":"77"},"value":"eA=="}`),
		post("/v3/election/proclaim", `{"leader":{"key":"ZS80ZA==","rev":"5","lease":"77"},"value":"eA=="}`),
		post("/v3/election/proclaim", `{"leader":{"key":"ZS80ZA==","rev":"5","lease":"99"},"value":"eA=="}`),
		post("/v3/election/proclaim", `{"leader":{"rev":"5","lease":"77"},"value":"eA=="}`),
		post("/v3/election/leader", `{"name":"ZQ=="}`),
		post("/v3/election/resign", `{"leader":{"key":"ZS80ZA==","rev":"99","lease":"77"}}`),
		post("/v3/election/resign", `{"leader":{"key":"ZS80ZA==","rev":"5","lease":"77"}}`),
		post("/v3/election/resign", `{"leader":{"lease":"77"}}`),
		post("/v3/election/leader", `{"name":"ZQ=="}`),
		post("/v3/kv/range", `{"key":"AA==","range_end":"AA=="}`),
	})
}
