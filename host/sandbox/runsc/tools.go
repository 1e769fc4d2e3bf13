//go:build tools

// Package runsc pins the version of gVisor's runtime that `./x setup` builds where none is
// installed. There is no code of ours in it.
package runsc

import _ "gvisor.dev/gvisor/runsc"
