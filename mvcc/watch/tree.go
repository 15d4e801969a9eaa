package watch

// tree is an interval tree: an AVL tree of spans in order of (key, end), in which every node knows the furthest end
// below it. All spans that contain a key are found in O(log n + matches) steps.
//
// Spans are unique; the hub keeps all watchers of one span in one value. The zero value is an empty tree.
//
// Source: Cormen et al., Introduction to Algorithms, "Interval trees"; Adelson-Velsky and Landis 1962.
type tree[V any] struct {
	root *node[V]
	size int
}

// node invariants: left < span < right; the heights of the two children differ by at most one; height is one more than
// the higher child's; reach is the furthest end of the spans in this subtree.
type node[V any] struct {
	span        span
	value       V
	left, right *node[V]
	height      int
	reach       bound
}

// bound is the exclusive upper end of a span.
type bound struct {
	end  string
	open bool // no upper end; end is empty
}

// beyond reports whether key lies below the bound, so that a span with this bound may contain it.
func (b bound) beyond(key []byte) bool { return b.open || b.end > string(key) }

func (b bound) max(c bound) bound {
	if b.open || !c.open && b.end >= c.end {
		return b
	}
	return c
}

func (t *tree[V]) len() int { return t.size }

// get returns the value of exactly this span.
func (t *tree[V]) get(s span) (value V, ok bool) {
	for n := t.root; n != nil; {
		switch c := s.compare(n.span); {
		case c < 0:
			n = n.left
		case c > 0:
			n = n.right
		default:
			return n.value, true
		}
	}
	return value, false
}

// put adds the span or replaces its value.
func (t *tree[V]) put(s span, value V) {
	t.root = t.insert(t.root, s, value)
}

// remove takes the span out, if it is there.
func (t *tree[V]) remove(s span) {
	t.root = t.delete(t.root, s)
}

// stab appends the values of all spans that contain key to dst, in span order.
func (t *tree[V]) stab(key []byte, dst []V) []V {
	return t.root.stab(key, dst)
}

func (n *node[V]) stab(key []byte, dst []V) []V {
	if n == nil || !n.reach.beyond(key) {
		return dst
	}
	dst = n.left.stab(key, dst)
	if n.span.key > string(key) {
		return dst // so are all to the right
	}
	if n.span.bound().beyond(key) {
		dst = append(dst, n.value)
	}
	return n.right.stab(key, dst)
}

func (t *tree[V]) insert(n *node[V], s span, value V) *node[V] {
	if n == nil {
		t.size++
		return &node[V]{span: s, value: value, height: 1, reach: s.bound()}
	}
	switch c := s.compare(n.span); {
	case c < 0:
		n.left = t.insert(n.left, s, value)
	case c > 0:
		n.right = t.insert(n.right, s, value)
	default:
		n.value = value
		return n
	}
	return n.rebalance()
}

func (t *tree[V]) delete(n *node[V], s span) *node[V] {
	if n == nil {
		return nil
	}
	switch c := s.compare(n.span); {
	case c < 0:
		n.left = t.delete(n.left, s)
	case c > 0:
		n.right = t.delete(n.right, s)
	default:
		t.size--
		if n.left == nil {
			return n.right
		}
		if n.right == nil {
			return n.left
		}
		// The smallest node on the right takes this place.
		right, next := n.right.takeFirst()
		next.left, next.right = n.left, right
		return next.rebalance()
	}
	return n.rebalance()
}

// takeFirst unlinks the smallest node of the subtree and returns the rest and the node.
func (n *node[V]) takeFirst() (rest, first *node[V]) {
	if n.left == nil {
		return n.right, n
	}
	n.left, first = n.left.takeFirst()
	return n.rebalance(), first
}

func (n *node[V]) rebalance() *node[V] {
	n.update()
	switch lean := n.left.h() - n.right.h(); {
	case lean > 1:
		if n.left.left.h() < n.left.right.h() {
			n.left = n.left.rotateLeft()
		}
		return n.rotateRight()
	case lean < -1:
		if n.right.right.h() < n.right.left.h() {
			n.right = n.right.rotateRight()
		}
		return n.rotateLeft()
	}
	return n
}

func (n *node[V]) rotateLeft() *node[V] {
	top := n.right
	n.right, top.left = top.left, n
	n.update()
	top.update()
	return top
}

func (n *node[V]) rotateRight() *node[V] {
	top := n.left
	n.left, top.right = top.right, n
	n.update()
	top.update()
	return top
}

func (n *node[V]) h() int {
	if n == nil {
		return 0
	}
	return n.height
}

// update derives height and reach from the children.
func (n *node[V]) update() {
	n.height = 1 + max(n.left.h(), n.right.h())
	n.reach = n.span.bound()
	if n.left != nil {
		n.reach = n.reach.max(n.left.reach)
	}
	if n.right != nil {
		n.reach = n.reach.max(n.right.reach)
	}
}
