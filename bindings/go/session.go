package tenon

import (
	"encoding/json"
	"runtime"
	"sort"
	"sync"
	"unsafe"

	"tenon/internal/ffi"
)

// Session is an opened device with a stream and counted memory.
type Session struct {
	mutex   sync.Mutex
	raw     *ffi.Session
	context *Context
	// What the session still has to free, by address. The objects themselves are not held, so that finalizers find them.
	owned map[unsafe.Pointer]owned
}

type owned struct {
	order int
	free  func()
}

// In this order a session frees what was made on it.
const (
	orderCoded = iota
	orderTechnique
	orderTensor
)

// Session opens a device: "auto", "onednn", "cuda", "hip", "cuda:1". memoryLimit in bytes, 0 = none.
func (c *Context) Session(device string, memoryLimit uint64) (*Session, error) {
	var a arena
	defer a.free()
	name := a.text(device)
	if a.bad != nil {
		return nil, a.bad
	}
	s := &Session{context: c, owned: map[unsafe.Pointer]owned{}}
	if err := c.in(func(raw *ffi.Context) int32 {
		var made *ffi.Session
		status := ffi.SessionOpen(raw, name, memoryLimit, &made)
		if status >= 0 {
			s.raw = made
			c.sessions++
		}
		return status
	}); err != nil {
		return nil, err
	}
	runtime.SetFinalizer(s, (*Session).Close)
	return s, nil
}

// Close frees everything that was made on the session, then the session. Closing twice does nothing.
func (s *Session) Close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.raw == nil {
		return nil
	}
	rest := make([]owned, 0, len(s.owned))
	for _, o := range s.owned {
		rest = append(rest, o)
	}
	sort.SliceStable(rest, func(i, k int) bool { return rest[i].order < rest[k].order })
	for _, o := range rest {
		o.free()
	}
	s.owned = nil
	ffi.SessionClose(s.raw)
	s.raw = nil
	s.context.mutex.Lock()
	s.context.sessions--
	s.context.mutex.Unlock()
	runtime.SetFinalizer(s, nil)
	return nil
}

// in runs one call of the library on the open session; every object that it uses must be open.
func (s *Session) in(function func(raw *ffi.Session) int32, uses ...*object) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.raw == nil {
		return refuse(ErrState, "the session is closed; open a new one")
	}
	for _, o := range uses {
		if o == nil || o.session != s {
			return refuse(ErrArgument, "an object of another session, or none, was given; use those of this session")
		}
		if !o.open() {
			return refuse(ErrState, "the %s is closed; make a new one", o.what)
		}
	}
	err := check(func() int32 { return function(s.raw) })
	runtime.KeepAlive(uses)
	return err
}

// SessionInfo is what a session says of its device and memory.
type SessionInfo struct {
	Backend    string `json:"backend"`
	Name       string `json:"name"`
	Arch       string `json:"arch"`
	Runtime    string `json:"runtime"`
	TotalBytes uint64 `json:"total_bytes"`
	FreeBytes  uint64 `json:"free_bytes"`
	LiveBytes  uint64 `json:"live_bytes"`
	PeakBytes  uint64 `json:"peak_bytes"`
	Categories map[string]struct {
		Live uint64 `json:"live"`
		Peak uint64 `json:"peak"`
	} `json:"categories"`
	PassedOver []string `json:"passed_over"`
}

// Info asks for the present state.
func (s *Session) Info() (*SessionInfo, error) {
	var out *byte
	if err := s.in(func(raw *ffi.Session) int32 { return ffi.SessionInfo(raw, &out) }); err != nil {
		return nil, err
	}
	info := &SessionInfo{}
	return info, json.Unmarshal([]byte(take(out)), info)
}

// object is what was made on a session.
type object struct {
	session *Session
	address unsafe.Pointer
	what    string
}

// own registers what `in` just made; the session's mutex is held.
func (s *Session) own(o *object, address unsafe.Pointer, what string, order int, free func()) {
	o.session, o.address, o.what = s, address, what
	s.owned[address] = owned{order, free}
	runtime.SetFinalizer(o, (*object).close)
}

func (o *object) open() bool { return o.address != nil }

func (o *object) close() {
	if o.session == nil {
		return
	}
	o.session.mutex.Lock()
	defer o.session.mutex.Unlock()
	if o.address == nil {
		return
	}
	if rest, ok := o.session.owned[o.address]; ok {
		rest.free()
		delete(o.session.owned, o.address)
	}
	o.address = nil
	runtime.SetFinalizer(o, nil)
}
