package tenon

// #include <stdlib.h>
import "C"

import (
	"runtime"
	"unsafe"

	"tenon/internal/ffi"
)

// BF16 is the bits of a bfloat16 number: the upper half of a float32.
type BF16 uint16

// F16 is the bits of an IEEE half-precision number.
type F16 uint16

// Element is what tensors hold.
type Element interface {
	float64 | float32 | F16 | BF16 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

// DType names the type of a tensor's elements.
type DType struct{ code, bits uint8 }

// The types of elements.
var (
	Float64  = DType{ffi.TN_FLOAT, 64}
	Float32  = DType{ffi.TN_FLOAT, 32}
	Float16  = DType{ffi.TN_FLOAT, 16}
	BFloat16 = DType{ffi.TN_BFLOAT, 16}
	Int8     = DType{ffi.TN_INT, 8}
	Int16    = DType{ffi.TN_INT, 16}
	Int32    = DType{ffi.TN_INT, 32}
	Int64    = DType{ffi.TN_INT, 64}
	Uint8    = DType{ffi.TN_UINT, 8}
	Uint16   = DType{ffi.TN_UINT, 16}
	Uint32   = DType{ffi.TN_UINT, 32}
	Uint64   = DType{ffi.TN_UINT, 64}
)

func (d DType) raw() ffi.Dtype { return ffi.Dtype{Code: d.code, Bits: d.bits, Lanes: 1} }

func dtypeOf[T Element]() DType {
	var zero T
	switch any(zero).(type) {
	case float64:
		return Float64
	case float32:
		return Float32
	case F16:
		return Float16
	case BF16:
		return BFloat16
	case int8:
		return Int8
	case int16:
		return Int16
	case int32:
		return Int32
	case int64:
		return Int64
	case uint8:
		return Uint8
	case uint16:
		return Uint16
	case uint32:
		return Uint32
	}
	return Uint64
}

// Category is what memory is counted under.
type Category uint32

// The categories.
const (
	Weights        Category = ffi.TN_MEMORY_WEIGHTS
	Gradients      Category = ffi.TN_MEMORY_GRADIENTS
	OptimizerState Category = ffi.TN_MEMORY_OPTIMIZER_STATE
	AdapterMemory  Category = ffi.TN_MEMORY_ADAPTER
	Activations    Category = ffi.TN_MEMORY_ACTIVATIONS
	Workspace      Category = ffi.TN_MEMORY_WORKSPACE
	Codec          Category = ffi.TN_MEMORY_CODEC
)

// Tensor is numbers on a session's device.
type Tensor struct {
	*object
	shape []int64
	dtype DType
	ours  bool // in the session's memory, dense row-major
}

func (t *Tensor) raw() *ffi.Tensor { return (*ffi.Tensor)(t.address) }

func (t *Tensor) handle() *object {
	if t == nil {
		return nil
	}
	return t.object
}

// Close frees the tensor. Closing twice does nothing.
func (t *Tensor) Close() error {
	t.close()
	return nil
}

// Shape answers the sizes.
func (t *Tensor) Shape() []int64 { return append([]int64(nil), t.shape...) }

// DType answers the type of the elements.
func (t *Tensor) DType() DType { return t.dtype }

// Len is the number of elements.
func (t *Tensor) Len() int {
	n := int64(1)
	for _, size := range t.shape {
		n *= size
	}
	return int(n)
}

// Tensor makes a dense tensor of zeros.
func (s *Session) Tensor(category Category, dtype DType, shape ...int64) (*Tensor, error) {
	t := &Tensor{object: &object{}, shape: append([]int64(nil), shape...), dtype: dtype, ours: true}
	sizes, kind := append(append([]int64(nil), shape...), 0), dtype.raw()
	if err := s.in(func(raw *ffi.Session) int32 {
		var made *ffi.Tensor
		status := ffi.TensorAlloc(raw, uint32(category), &kind, int32(len(shape)), &sizes[0], &made)
		if status >= 0 {
			s.own(t.object, unsafe.Pointer(made), "tensor", orderTensor, func() { ffi.TensorFree(raw, made) })
		}
		return status
	}); err != nil {
		return nil, err
	}
	return t, nil
}

// NewTensor makes a dense tensor of these numbers.
func NewTensor[T Element](s *Session, category Category, values []T, shape ...int64) (*Tensor, error) {
	t, err := s.Tensor(category, dtypeOf[T](), shape...)
	if err != nil {
		return nil, err
	}
	if err := Write(t, values); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Borrow makes a tensor over memory that is not Go's (a mapped file, another C library's), which must outlive it. Strides in elements;
// nil = dense row-major.
func (s *Session) Borrow(memory unsafe.Pointer, dtype DType, shape, strides []int64) (*Tensor, error) {
	if len(shape) > 4 || (strides != nil && len(strides) != len(shape)) {
		return nil, refuse(ErrArgument, "%d sizes and %d strides were given; a tensor has up to 4 dimensions and a stride for each", len(shape), len(strides))
	}
	t := &Tensor{object: &object{}, shape: append([]int64(nil), shape...), dtype: dtype}
	err := s.in(func(*ffi.Session) int32 {
		// One block of C memory: the struct, four sizes, four strides.
		block := C.calloc(1, C.size_t(unsafe.Sizeof(ffi.Tensor{})+64))
		if block == nil {
			return ffi.TN_E_MEMORY
		}
		raw := (*ffi.Tensor)(block)
		numbers := unsafe.Slice((*int64)(unsafe.Add(block, unsafe.Sizeof(ffi.Tensor{}))), 8)
		stride := int64(1)
		for i := len(shape) - 1; i >= 0; i-- {
			numbers[i], numbers[4+i] = shape[i], stride
			stride *= shape[i]
			if strides != nil {
				numbers[4+i] = strides[i]
			}
		}
		*raw = ffi.Tensor{Data: memory, Device: ffi.DeviceID{Type: ffi.TN_CPU}, Ndim: int32(len(shape)), Dtype: dtype.raw(), Shape: &numbers[0], Strides: &numbers[4]}
		s.own(t.object, block, "tensor", orderTensor, func() { C.free(block) })
		return 0
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func fits[T Element](t *Tensor, n int) error {
	if t == nil || t.session == nil {
		return refuse(ErrArgument, "no tensor was given")
	}
	if d := dtypeOf[T](); d != t.dtype {
		return refuse(ErrArgument, "the tensor does not hold numbers of the type %T", *new(T))
	}
	if n >= 0 && n != t.Len() {
		return refuse(ErrArgument, "%d numbers were given for a tensor of %d", n, t.Len())
	}
	return nil
}

// Write copies all of a tensor's numbers in.
func Write[T Element](t *Tensor, values []T) error {
	if err := fits[T](t, len(values)); err != nil {
		return err
	}
	var none [8]byte
	from := unsafe.Pointer(&none)
	if len(values) > 0 {
		from = unsafe.Pointer(&values[0])
	}
	return t.session.in(func(raw *ffi.Session) int32 {
		return ffi.TensorWrite(raw, t.raw(), from, uint64(len(values))*uint64(unsafe.Sizeof(*new(T))))
	}, t.object)
}

// Read copies all of a tensor's numbers out.
func Read[T Element](t *Tensor, values []T) error {
	if err := fits[T](t, len(values)); err != nil {
		return err
	}
	var none [8]byte
	to := unsafe.Pointer(&none)
	if len(values) > 0 {
		to = unsafe.Pointer(&values[0])
	}
	return t.session.in(func(raw *ffi.Session) int32 {
		return ffi.TensorRead(raw, t.raw(), to, uint64(len(values))*uint64(unsafe.Sizeof(*new(T))))
	}, t.object)
}

// Map gives a function the numbers themselves, without a copy (host memory only). The slice must not be kept, and the session not be used
// meanwhile.
func Map[T Element](t *Tensor, function func(values []T)) error {
	if err := fits[T](t, -1); err != nil {
		return err
	}
	if !t.ours {
		return refuse(ErrUnsupported, "the tensor is borrowed memory; use that itself")
	}
	return t.session.in(func(*ffi.Session) int32 {
		if t.raw().Device.Type != ffi.TN_CPU {
			return ffi.TN_E_UNSUPPORTED
		}
		if t.Len() == 0 {
			function(nil)
		} else {
			function(unsafe.Slice((*T)(t.raw().Data), t.Len()))
		}
		runtime.KeepAlive(t)
		return 0
	}, t.object)
}
