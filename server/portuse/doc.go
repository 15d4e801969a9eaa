// Package portuse names the process that holds a port, for the message when a listener cannot be opened:
//
//	l, err := net.Listen("tcp", "127.0.0.1:2379")
//	if err != nil {
//		return portuse.Explain(err, "127.0.0.1:2379")
//	}
//
// gives "port 2379 is in use by process 4711 (etcd --name m1)".
package portuse
