package tenon

import (
	"unsafe"

	"tenon/internal/ffi"
)

// Role is what a weight is for; some methods look at it.
type Role uint32

// The roles.
const (
	RoleEmbedding Role = ffi.TN_ROLE_EMBEDDING
	RoleHead      Role = ffi.TN_ROLE_HEAD
	RoleNorm      Role = ffi.TN_ROLE_NORM
	RoleBias      Role = ffi.TN_ROLE_BIAS
	RoleQ         Role = ffi.TN_ROLE_Q
	RoleK         Role = ffi.TN_ROLE_K
	RoleV         Role = ffi.TN_ROLE_V
	RoleO         Role = ffi.TN_ROLE_O
	RoleGate      Role = ffi.TN_ROLE_GATE
	RoleUp        Role = ffi.TN_ROLE_UP
	RoleDown      Role = ffi.TN_ROLE_DOWN
	RoleOther     Role = ffi.TN_ROLE_OTHER
)

// instance is a technique of any kind.
type instance struct{ *object }

func (i instance) raw() *ffi.Technique { return (*ffi.Technique)(i.address) }

// Close frees the technique. Closing twice does nothing.
func (i instance) Close() error {
	i.close()
	return nil
}

// Spec answers the canonical spec, with every value.
func (i instance) Spec() (string, error) {
	var out *byte
	if err := i.session.in(func(*ffi.Session) int32 { return ffi.TechniqueSpec(i.raw(), &out) }, i.object); err != nil {
		return "", err
	}
	return take(out), nil
}

func (s *Session) create(what, spec string, make func(raw *ffi.Session, spec *byte, out **ffi.Technique) int32) (instance, error) {
	var a arena
	defer a.free()
	text := a.text(spec)
	if a.bad != nil {
		return instance{}, a.bad
	}
	i := instance{&object{}}
	err := s.in(func(raw *ffi.Session) int32 {
		var made *ffi.Technique
		status := make(raw, text, &made)
		if status >= 0 {
			s.own(i.object, unsafe.Pointer(made), what, orderTechnique, func() { ffi.TechniqueDestroy(made) })
		}
		return status
	})
	return i, err
}

func (s *Session) ofKind(kind Kind, spec string) (instance, error) {
	return s.create(kindNames[kind], spec, func(raw *ffi.Session, spec *byte, out **ffi.Technique) int32 {
		return ffi.TechniqueCreate(raw, uint32(kind), spec, out)
	})
}

// Param is a parameter of an optimizer. UID is its number in random streams and states, the same in every run.
type Param struct {
	Shape []int64
	DType DType
	Role  Role
	UID   uint32
	Name  string
}

// Optimizer is bound to its parameters.
type Optimizer struct {
	instance
	params int
}

// Optimizer makes an instance for all these parameters and allocates its states.
func (s *Session) Optimizer(spec string, params ...Param) (*Optimizer, error) {
	made, err := s.ofKind(KindOptimizer, spec)
	if err != nil {
		return nil, err
	}
	var a arena
	defer a.free()
	list := a.alloc(uintptr(len(params)) * unsafe.Sizeof(uintptr(0)))
	pointers := unsafe.Slice((**ffi.Param)(list), len(params))
	for i, p := range params {
		if len(p.Shape) > 4 {
			made.Close()
			return nil, refuse(ErrArgument, "parameter %d has %d dimensions; 0 to 4 are possible", i, len(p.Shape))
		}
		raw := (*ffi.Param)(a.alloc(unsafe.Sizeof(ffi.Param{})))
		*raw = ffi.Param{UID: p.UID, Role: uint32(p.Role), Repr: ffi.TN_REPR_DENSE, Block: -1, TiedTo: -1, Dtype: p.DType.raw(), Ndim: int32(len(p.Shape)), InAxis: -1,
			Name: a.text(p.Name)}
		raw.StructSize = uint32(unsafe.Offsetof(raw.Name) + unsafe.Sizeof(raw.Name))
		if len(p.Shape) == 2 {
			raw.InAxis = 1
		}
		copy(raw.Shape[:], p.Shape)
		pointers[i] = raw
	}
	err = a.bad
	if err == nil {
		err = s.in(func(*ffi.Session) int32 {
			return ffi.OptimizerBind(made.raw(), (**ffi.Param)(list), uint64(len(params)))
		}, made.object)
	}
	if err != nil {
		made.Close()
		return nil, err
	}
	return &Optimizer{made, len(params)}, nil
}

// Update is what one step is told. GradScale 0 counts as 1.
type Update struct {
	LR         float64
	GradScale  float64
	Seed       uint64
	TotalSteps int64
	Tokens     int64
}

// Step updates params in place from grads (nil: no gradient in this step), in the order in which they were bound.
func (o *Optimizer) Step(update Update, params, grads []*Tensor) error {
	if len(params) != o.params || len(grads) != o.params {
		return refuse(ErrArgument, "%d parameters and %d gradients were given for the %d that are bound", len(params), len(grads), o.params)
	}
	if update.GradScale == 0 {
		update.GradScale = 1
	}
	raw := ffi.Update{TotalSteps: update.TotalSteps, Tokens: update.Tokens, Seed: update.Seed, LR: update.LR, GradScale: update.GradScale}
	raw.StructSize = uint32(unsafe.Sizeof(raw))
	uses := []*object{o.object}
	for i := range params {
		uses = append(uses, params[i].handle())
		if grads[i] != nil {
			uses = append(uses, grads[i].object)
		}
	}
	return o.session.in(func(*ffi.Session) int32 {
		ours, theirs := make([]*ffi.Tensor, len(params)+1), make([]*ffi.Tensor, len(params)+1)
		for i := range params {
			ours[i] = params[i].raw()
			if grads[i] != nil {
				theirs[i] = grads[i].raw()
			}
		}
		return ffi.OptimizerStep(o.raw(), &raw, &ours[0], &theirs[0])
	}, uses...)
}

// Steps done.
func (o *Optimizer) Steps() (steps int64, err error) {
	err = o.session.in(func(*ffi.Session) int32 { steps = ffi.OptimizerSteps(o.raw()); return 0 }, o.object)
	return steps, err
}

// StateBytes of all states.
func (o *Optimizer) StateBytes() (bytes uint64, err error) {
	err = o.session.in(func(*ffi.Session) int32 { bytes = ffi.OptimizerStateBytes(o.raw()); return 0 }, o.object)
	return bytes, err
}

// Save answers all states, which name plugin, version and layout.
func (o *Optimizer) Save() ([]byte, error) {
	var states []byte
	sink, done := newSink(func(bytes []byte) { states = append(states, bytes...) })
	defer done()
	err := o.session.in(func(*ffi.Session) int32 { return ffi.OptimizerSave(o.raw(), sink) }, o.object)
	return states, err
}

// Load takes what Save wrote for the same parameters.
func (o *Optimizer) Load(states []byte) error {
	if len(states) == 0 {
		return refuse(ErrFormat, "no states were given; give what Save answered")
	}
	return o.session.in(func(*ffi.Session) int32 {
		return ffi.OptimizerLoad(o.raw(), unsafe.Pointer(&states[0]), uint64(len(states)))
	}, o.object)
}

// Quantizer codes tensors.
type Quantizer struct{ instance }

// Quantizer makes an instance.
func (s *Session) Quantizer(spec string) (*Quantizer, error) {
	made, err := s.ofKind(KindQuantizer, spec)
	if err != nil {
		return nil, err
	}
	return &Quantizer{made}, nil
}

// Coded is a tensor as a quantizer holds it.
type Coded struct {
	*object
	quantizer *Quantizer
	count     int64
}

// Close frees it. Closing twice does nothing.
func (c *Coded) Close() error {
	c.close()
	return nil
}

func (c *Coded) raw() *ffi.Coded { return (*ffi.Coded)(c.address) }

// Encode codes a dense tensor of float32, bfloat16 or float16.
func (q *Quantizer) Encode(t *Tensor, role Role, name string, seed uint64) (*Coded, error) {
	var a arena
	defer a.free()
	if t == nil {
		return nil, refuse(ErrArgument, "no tensor was given")
	}
	target := ffi.Target{Site: ffi.TN_SITE_WEIGHT, Role: uint32(role), Block: -1, Ndim: int32(len(t.shape)), Dtype: t.dtype.raw(), Name: a.text(name)}
	target.StructSize = uint32(unsafe.Offsetof(target.Name) + unsafe.Sizeof(target.Name))
	copy(target.Shape[:], t.shape)
	if a.bad != nil {
		return nil, a.bad
	}
	c := &Coded{&object{}, q, int64(t.Len())}
	s := q.session
	if err := s.in(func(*ffi.Session) int32 {
		var made *ffi.Coded
		status := ffi.QuantizerEncode(q.raw(), &target, t.raw(), seed, &made)
		if status >= 0 {
			s.own(c.object, unsafe.Pointer(made), "coded tensor", orderCoded, func() { ffi.CodedFree(made) })
		}
		return status
	}, q.object, t.object); err != nil {
		return nil, err
	}
	return c, nil
}

// Decode writes elements [begin, end) of the flattened tensor into out.
func (c *Coded) Decode(begin, end int64, out *Tensor) error {
	return c.session.in(func(*ffi.Session) int32 {
		return ffi.QuantizerDecode(c.quantizer.raw(), c.raw(), begin, end, out.raw())
	}, c.object, c.quantizer.object, out.handle())
}

// Len is the number of elements of the tensor.
func (c *Coded) Len() int64 { return c.count }

// Bytes of all components.
func (c *Coded) Bytes() (bytes uint64, err error) {
	err = c.session.in(func(*ffi.Session) int32 { bytes = ffi.CodedBytes(c.raw()); return 0 }, c.object)
	return bytes, err
}

// AttentionConfig is one layer. ValueSize 0 = HeadSize; Scale 0 = 1/sqrt(HeadSize); Softcap 0 = off.
type AttentionConfig struct {
	Heads, KVHeads, HeadSize, ValueSize uint32
	Scale, Softcap                      float64
}

// Attention of one layer.
type Attention struct{ instance }

// Attention makes an instance.
func (s *Session) Attention(spec string, config AttentionConfig) (*Attention, error) {
	if config.ValueSize == 0 {
		config.ValueSize = config.HeadSize
	}
	raw := ffi.AttentionConfig{NHeads: config.Heads, NKvHeads: config.KVHeads, DQk: config.HeadSize, DV: config.ValueSize, NLayers: 1, NHeadsGlobal: config.Heads,
		Scale: config.Scale, Softcap: config.Softcap}
	raw.StructSize = uint32(unsafe.Sizeof(raw))
	made, err := s.create("attention", spec, func(session *ffi.Session, spec *byte, out **ffi.Technique) int32 {
		return ffi.AttentionCreate(session, spec, &raw, out)
	})
	if err != nil {
		return nil, err
	}
	return &Attention{made}, nil
}

// Forward is causal attention: q, k, v and out are [batch, tokens, heads, head size] of one type, lse (or nil) float32 [batch, heads, tokens].
// window > 0: only the last `window` keys.
func (a *Attention) Forward(q, k, v *Tensor, window int64, out, lse *Tensor) error {
	uses := []*object{a.object, q.handle(), k.handle(), v.handle(), out.handle()}
	if lse != nil {
		uses = append(uses, lse.object)
	}
	return a.session.in(func(*ffi.Session) int32 {
		var statistics *ffi.Tensor
		if lse != nil {
			statistics = lse.raw()
		}
		return ffi.AttentionForward(a.raw(), q.raw(), k.raw(), v.raw(), window, out.raw(), statistics)
	}, uses...)
}
