package config

import (
	"slices"
	"strings"
)

// absent are options that etcd 3.7 has and this version does not, so that a message can tell them from typing errors.
const absent = `
discovery-cacert discovery-cert discovery-config discovery-dial-timeout discovery-endpoints discovery-fallback
discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time discovery-keepalive-timeout
discovery-key discovery-password discovery-request-timeout discovery-srv discovery-srv-name discovery-token
discovery-user
distributed-tracing-address distributed-tracing-instance-id distributed-tracing-sampling-rate
distributed-tracing-service-name enable-distributed-tracing
downgrade-check-time force-new-cluster
`

func isAbsent(name string) bool { return slices.Contains(strings.Fields(absent), name) }
