package tenon

import (
	"encoding/json"
	"runtime"
	"sync"

	"tenon/internal/ffi"
)

// Kind of a plugin.
type Kind uint32

// The kinds.
const (
	KindDevice    Kind = ffi.TN_KIND_DEVICE
	KindOptimizer Kind = ffi.TN_KIND_OPTIMIZER
	KindAdapter   Kind = ffi.TN_KIND_ADAPTER
	KindQuantizer Kind = ffi.TN_KIND_QUANTIZER
	KindAttention Kind = ffi.TN_KIND_ATTENTION
	anyKind       Kind = ffi.TN_KIND_UNDEFINED
)

var kindNames = map[Kind]string{KindDevice: "device", KindOptimizer: "optimizer", KindAdapter: "adapter", KindQuantizer: "quantizer",
	KindAttention: "attention"}

// Plugin is one line of the catalog.
type Plugin struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind"`
	Version  string   `json:"version"`
	Name     string   `json:"name"`
	Summary  string   `json:"summary"`
	Backends []string `json:"backends"`
	Store    string   `json:"store"`
}

// Technique names one part of a mix: {KindOptimizer, "galore:rank=128"}.
type Technique struct {
	Kind Kind
	Spec string
}

// Reason is why a mix is not possible: the plugin that minds, and a sentence that begins with it.
type Reason struct {
	Plugin   string `json:"plugin"`
	Sentence string `json:"sentence"`
}

// Mix says whether techniques work together.
type Mix struct {
	Possible   bool     `json:"possible"`
	Reasons    []Reason `json:"reasons"`
	Techniques []string `json:"techniques"` // the specs with every value
}

// Context is the plugins of some stores.
type Context struct {
	mutex    sync.Mutex
	raw      *ffi.Context
	sessions int
}

// Open takes stores (folders) in order of precedence; none: the user's store, then the one that came with the library.
func Open(stores ...string) (*Context, error) {
	var a arena
	defer a.free()
	list := a.texts(stores)
	if a.bad != nil {
		return nil, a.bad
	}
	var made *ffi.Context
	if err := check(func() int32 { return ffi.ContextOpen(list, uint64(len(stores)), &made) }); err != nil {
		return nil, err
	}
	c := &Context{raw: made}
	runtime.SetFinalizer(c, (*Context).Close)
	return c, nil
}

// Close ends the use of a context, whose sessions must be closed. Closing twice does nothing.
func (c *Context) Close() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.raw == nil {
		return nil
	}
	if c.sessions > 0 {
		return refuse(ErrState, "%d sessions of this context are open; close them first", c.sessions)
	}
	ffi.ContextClose(c.raw)
	c.raw = nil
	runtime.SetFinalizer(c, nil)
	return nil
}

// in runs one call of the library on the open context.
func (c *Context) in(function func(raw *ffi.Context) int32) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.raw == nil {
		return refuse(ErrState, "the context is closed; open a new one")
	}
	return check(func() int32 { return function(c.raw) })
}

func (c *Context) json(a *arena, answer interface{}, function func(raw *ffi.Context, out **byte) int32) error {
	if a.bad != nil {
		return a.bad
	}
	var out *byte
	if err := c.in(func(raw *ffi.Context) int32 { return function(raw, &out) }); err != nil {
		return err
	}
	return json.Unmarshal([]byte(take(out)), answer)
}

// Plugins lists what is installed; without kinds, all of it.
func (c *Context) Plugins(kinds ...Kind) ([]Plugin, error) {
	var a arena
	defer a.free()
	if len(kinds) == 0 {
		kinds = []Kind{anyKind}
	}
	var all []Plugin
	for _, kind := range kinds {
		var name *byte
		if kind != anyKind {
			name = a.text(kindNames[kind])
		}
		var found []Plugin
		if err := c.json(&a, &found, func(raw *ffi.Context, out **byte) int32 { return ffi.PluginList(raw, name, out) }); err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Info answers the manifest, with the schema of the hyper-parameters.
func (c *Context) Info(plugin string) (map[string]interface{}, error) {
	var a arena
	defer a.free()
	id := a.text(plugin)
	var manifest map[string]interface{}
	err := c.json(&a, &manifest, func(raw *ffi.Context, out **byte) int32 { return ffi.PluginInfo(raw, id, out) })
	return manifest, err
}

// Install puts the plugin in a folder into the first store.
func (c *Context) Install(folder string) (map[string]interface{}, error) {
	var a arena
	defer a.free()
	from := a.text(folder)
	var report map[string]interface{}
	err := c.json(&a, &report, func(raw *ffi.Context, out **byte) int32 { return ffi.PluginInstall(raw, from, out) })
	return report, err
}

// Remove takes a plugin out of the first store.
func (c *Context) Remove(plugin string) error {
	var a arena
	defer a.free()
	id := a.text(plugin)
	if a.bad != nil {
		return a.bad
	}
	return c.in(func(raw *ffi.Context) int32 { return ffi.PluginRemove(raw, id) })
}

// Check says whether techniques mix; tags beyond the usual ones: "device:cuda", "run:accumulate".
func (c *Context) Check(techniques []Technique, tags ...string) (*Mix, error) {
	var a arena
	defer a.free()
	kinds, specs := make([]uint32, len(techniques)+1), make([]string, len(techniques))
	for i, t := range techniques {
		kinds[i], specs[i] = uint32(t.Kind), t.Spec
	}
	list, runTags := a.texts(specs), a.texts(tags)
	mix := &Mix{}
	err := c.json(&a, mix, func(raw *ffi.Context, out **byte) int32 {
		return ffi.Check(raw, &kinds[0], list, uint64(len(specs)), runTags, uint64(len(tags)), out)
	})
	if err != nil {
		return nil, err
	}
	return mix, nil
}
