package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type networkMetrics struct {
	knownPeers, activePeers *prometheus.GaugeVec
	disconnected            *prometheus.CounterVec
	sentBytes, sendFailures *prometheus.CounterVec
	receivedBytes           *prometheus.CounterVec
	receiveFailures         *prometheus.CounterVec
	roundTrip               *prometheus.HistogramVec

	snapshotSent, snapshotSendFailures        *prometheus.CounterVec
	snapshotReceived, snapshotReceiveFailures *prometheus.CounterVec
	snapshotSending, snapshotReceiving        *prometheus.GaugeVec
	snapshotSendSeconds                       *prometheus.HistogramVec
	snapshotReceiveSeconds                    *prometheus.HistogramVec

	peers cache[uint64, *peerMetrics]

	clientSentBytes, clientReceivedBytes prometheus.Counter
	streamFailures                       *prometheus.CounterVec
}

// peerMetrics are those of one peer that are needed for every message.
type peerMetrics struct {
	label                                                string
	sentBytes, sendFailures, receivedBytes, receiveFails prometheus.Counter
	roundTrip                                            prometheus.Observer
}

func (n *networkMetrics) register(r registrar) {
	n.knownPeers = r.gauges("etcd_network_known_peers", "Peers this member knows.", "Local", "Remote")
	n.activePeers = r.gauges("etcd_network_active_peers", "Peers this member is connected with.", "Local", "Remote")
	n.disconnected = r.counters("etcd_network_disconnected_peers_total", "Times the connection with a peer was lost.", "Local", "Remote")
	n.sentBytes = r.counters("etcd_network_peer_sent_bytes_total", "Bytes sent to a peer.", "To")
	n.receivedBytes = r.counters("etcd_network_peer_received_bytes_total", "Bytes received from a peer.", "From")
	n.sendFailures = r.counters("etcd_network_peer_sent_failures_total", "Messages to a peer that were not sent.", "To")
	n.receiveFailures = r.counters("etcd_network_peer_received_failures_total", "Streams from a peer that broke.", "From")
	n.roundTrip = r.histograms("etcd_network_peer_round_trip_time_seconds", "Round-trip time to a peer.", doubling(0.0001, 16), "To")
	n.snapshotSent = r.counters("etcd_network_snapshot_send_success", "Snapshots sent.", "To")
	n.snapshotSending = r.gauges("etcd_network_snapshot_send_inflights_total", "Snapshots being sent.", "To")
	n.snapshotSendFailures = r.counters("etcd_network_snapshot_send_failures", "Snapshots that were not sent to their end.", "To")
	n.snapshotSendSeconds = r.histograms("etcd_network_snapshot_send_total_duration_seconds", "How long it takes to send a snapshot.", doubling(0.1, 10), "To")
	n.snapshotReceived = r.counters("etcd_network_snapshot_receive_success", "Snapshots received.", "From")
	n.snapshotReceiving = r.gauges("etcd_network_snapshot_receive_inflights_total", "Snapshots being received.", "From")
	n.snapshotReceiveFailures = r.counters("etcd_network_snapshot_receive_failures", "Snapshots that were not received to their end.", "From")
	n.snapshotReceiveSeconds = r.histograms("etcd_network_snapshot_receive_total_duration_seconds", "How long it takes to receive a snapshot.", doubling(0.1, 10), "From")
	n.clientSentBytes = r.counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to gRPC clients.")
	n.clientReceivedBytes = r.counter("etcd_network_client_grpc_received_bytes_total", "Bytes received from gRPC clients.")
	n.streamFailures = r.counters("etcd_network_server_stream_failures_total", "Client streams that broke.", "Type", "API")
}

func (n *networkMetrics) peer(id uint64) *peerMetrics {
	return n.peers.get(id, func(id uint64) *peerMetrics {
		label := memberLabel(id)
		return &peerMetrics{
			label:         label,
			sentBytes:     n.sentBytes.WithLabelValues(label),
			sendFailures:  n.sendFailures.WithLabelValues(label),
			receivedBytes: n.receivedBytes.WithLabelValues(label),
			receiveFails:  n.receiveFailures.WithLabelValues(label),
			roundTrip:     n.roundTrip.WithLabelValues(label),
		}
	})
}

func (n *networkMetrics) PeerSent(to uint64, bytes int) { n.peer(to).sentBytes.Add(float64(bytes)) }
func (n *networkMetrics) PeerSendFailed(to uint64)      { n.peer(to).sendFailures.Inc() }
func (n *networkMetrics) PeerReceived(from uint64, bytes int) {
	n.peer(from).receivedBytes.Add(float64(bytes))
}
func (n *networkMetrics) PeerReceiveFailed(from uint64) { n.peer(from).receiveFails.Inc() }
func (n *networkMetrics) PeerRoundTrip(to uint64, d time.Duration) {
	n.peer(to).roundTrip.Observe(d.Seconds())
}

// PeerKnown is told when a peer joins or leaves the configuration.
func (m *Metrics) PeerKnown(peer uint64, known bool) {
	if known {
		m.knownPeers.WithLabelValues(*m.member.Load(), memberLabel(peer)).Set(1)
		return
	}
	m.knownPeers.DeleteLabelValues(*m.member.Load(), memberLabel(peer))
	m.activePeers.DeleteLabelValues(*m.member.Load(), memberLabel(peer))
}

// PeerActive is told when the connection with a peer is made or lost.
func (m *Metrics) PeerActive(peer uint64, active bool) {
	local, remote := *m.member.Load(), memberLabel(peer)
	m.activePeers.WithLabelValues(local, remote).Set(oneIf(active))
	lost := m.disconnected.WithLabelValues(local, remote)
	if !active {
		lost.Inc()
	}
}

// SnapshotSending and SnapshotSent frame the transfer of a snapshot to a peer.
func (n *networkMetrics) SnapshotSending(to uint64) {
	n.snapshotSending.WithLabelValues(memberLabel(to)).Inc()
}

func (n *networkMetrics) SnapshotSent(to uint64, ok bool, d time.Duration) {
	label := memberLabel(to)
	n.snapshotSending.WithLabelValues(label).Dec()
	if !ok {
		n.snapshotSendFailures.WithLabelValues(label).Inc()
		return
	}
	n.snapshotSent.WithLabelValues(label).Inc()
	n.snapshotSendSeconds.WithLabelValues(label).Observe(d.Seconds())
}

// SnapshotReceiving and SnapshotReceived frame the transfer of a snapshot from a peer.
func (n *networkMetrics) SnapshotReceiving(from uint64) {
	n.snapshotReceiving.WithLabelValues(memberLabel(from)).Inc()
}

func (n *networkMetrics) SnapshotReceived(from uint64, ok bool, d time.Duration) {
	label := memberLabel(from)
	n.snapshotReceiving.WithLabelValues(label).Dec()
	if !ok {
		n.snapshotReceiveFailures.WithLabelValues(label).Inc()
		return
	}
	n.snapshotReceived.WithLabelValues(label).Inc()
	n.snapshotReceiveSeconds.WithLabelValues(label).Observe(d.Seconds())
}

func (n *networkMetrics) ClientReceivedBytes(bytes int) { n.clientReceivedBytes.Add(float64(bytes)) }
func (n *networkMetrics) ClientSentBytes(bytes int)     { n.clientSentBytes.Add(float64(bytes)) }

// StreamFailed is told of client streams that broke. kind is "send" or "receive", api such as "watch".
func (n *networkMetrics) StreamFailed(kind, api string) {
	n.streamFailures.WithLabelValues(kind, api).Inc()
}
