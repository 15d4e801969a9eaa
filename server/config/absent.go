package config

import (
	"slices"
	"strings"
)

// absent are options that etcd 3.7 has and this version does not, so that a message can tell them from typing errors.
const absent = `
auth-token auth-token-ttl auto-tls bcrypt-cost cert-file cipher-suites client-cert-allowed-hostname client-cert-auth
client-cert-file client-crl-file client-key-file client-transport-security
cors discovery-cacert discovery-cert discovery-config discovery-dial-timeout discovery-endpoints discovery-fallback
discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time discovery-keepalive-timeout
discovery-key discovery-password discovery-request-timeout discovery-srv discovery-srv-name discovery-token
discovery-user distributed-tracing-address distributed-tracing-instance-id distributed-tracing-sampling-rate
distributed-tracing-service-name downgrade-check-time enable-distributed-tracing enable-grpc-gateway force-new-cluster
host-whitelist key-file peer-auto-tls peer-cert-allowed-cn peer-cert-allowed-hostname peer-cert-file
peer-client-cert-auth peer-client-cert-file peer-client-key-file peer-crl-file peer-key-file
peer-skip-client-san-verification peer-transport-security peer-trusted-ca-file self-signed-cert-validity
tls-max-version tls-min-version trusted-ca-file
`

func isAbsent(name string) bool { return slices.Contains(strings.Fields(absent), name) }
