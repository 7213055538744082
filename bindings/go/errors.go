package tenon

// #include <stdlib.h>
// #include <tenon/trainer.h>
import "C"

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"tenon/internal/ffi"
)

// Status says what kind of failure it was.
type Status int32

// The kinds of failures.
const (
	ErrArgument    Status = ffi.TN_E_ARGUMENT
	ErrVersion     Status = ffi.TN_E_VERSION
	ErrUnsupported Status = ffi.TN_E_UNSUPPORTED
	ErrMemory      Status = ffi.TN_E_MEMORY
	ErrDevice      Status = ffi.TN_E_DEVICE
	ErrIO          Status = ffi.TN_E_IO
	ErrFormat      Status = ffi.TN_E_FORMAT
	ErrNotFound    Status = ffi.TN_E_NOT_FOUND
	ErrConflict    Status = ffi.TN_E_CONFLICT
	ErrNumeric     Status = ffi.TN_E_NUMERIC
	ErrState       Status = ffi.TN_E_STATE
	ErrTrust       Status = ffi.TN_E_TRUST
	ErrCancelled   Status = ffi.TN_E_CANCELLED
	ErrInternal    Status = ffi.TN_E_INTERNAL
)

// Error makes a Status usable with errors.Is: errors.Is(err, tenon.ErrNotFound).
func (s Status) Error() string { return text(ffi.StatusMessage(int32(s))) }

// Error is what the library refused or failed at: one sentence that names the thing, the value, the limit and the fix.
type Error struct {
	Status   Status
	Sentence string
}

func (e *Error) Error() string { return "tenon: " + e.Sentence }

// Unwrap answers the status.
func (e *Error) Unwrap() error { return e.Status }

func refuse(status Status, format string, values ...interface{}) error {
	return &Error{status, fmt.Sprintf(format, values...)}
}

func text(p *byte) string {
	if p == nil {
		return ""
	}
	return C.GoString((*C.char)(unsafe.Pointer(p)))
}

// call runs one function of the library and reads its error on the same thread, where the library keeps it.
func call(function func() int32, sentence func() *byte) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := function()
	if status >= 0 {
		return nil
	}
	why := text(sentence())
	if why == "" {
		why = Status(status).Error()
	}
	return &Error{Status(status), why}
}

func check(function func() int32) error        { return call(function, ffi.LastError) }
func checkTrainer(function func() int32) error { return call(function, ffi.TrainerLastError) }

// take answers the text that the library gave away.
func take(p *byte) string {
	defer ffi.FreeString(p)
	return text(p)
}

// arena is memory of C's for the arguments of one call.
type arena struct {
	blocks []unsafe.Pointer
	bad    error
}

func (a *arena) alloc(size uintptr) unsafe.Pointer {
	p := C.calloc(1, C.size_t(size+1))
	if p == nil {
		panic("tenon: out of memory")
	}
	a.blocks = append(a.blocks, p)
	return p
}

func (a *arena) text(s string) *byte {
	if strings.IndexByte(s, 0) >= 0 {
		a.bad = refuse(ErrArgument, "the text %q contains a NUL character", s)
		return nil
	}
	p := a.alloc(uintptr(len(s)))
	copy(unsafe.Slice((*byte)(p), len(s)), s)
	return (*byte)(p)
}

func (a *arena) texts(list []string) **byte {
	p := a.alloc(uintptr(len(list)) * unsafe.Sizeof(uintptr(0)))
	slots := unsafe.Slice((**byte)(p), len(list))
	for i, s := range list {
		slots[i] = a.text(s)
	}
	return (**byte)(p)
}

func (a *arena) free() {
	for _, p := range a.blocks {
		C.free(p)
	}
	a.blocks = nil
}

// Version of the library: "0.9.0".
func Version() string { return text(ffi.Version()) }

// ABIVersion is what plugins are offered.
func ABIVersion() (major, minor uint32) {
	ffi.ABIVersion(&major, &minor)
	return major, minor
}
