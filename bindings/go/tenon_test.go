package tenon

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// The package on the plugins of the build tree: what works, and what wrong use gets.

func open(t *testing.T) (*Context, *Session) {
	t.Helper()
	context, err := Open(os.Getenv("TENON_TEST_STORE"))
	if err != nil {
		t.Fatal(err)
	}
	session, err := context.Session("onednn", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		if err := context.Close(); err != nil {
			t.Error(err)
		}
	})
	return context, session
}

func wave(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(math.Sin(0.37 * float64(i)))
	}
	return out
}

func must[T any](t *testing.T) func(value T, err error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func refused(t *testing.T, err error, status Status, words string) {
	t.Helper()
	if err == nil {
		t.Fatalf("not refused: %s", words)
	}
	if !errors.Is(err, status) || !strings.Contains(err.Error(), words) {
		t.Fatalf("%v (%v); %q and %v were expected", err, errors.Unwrap(err), words, status)
	}
}

func tensor(t *testing.T, s *Session, values []float32, shape ...int64) *Tensor {
	t.Helper()
	return must[*Tensor](t)(NewTensor(s, Weights, values, shape...))
}

func numbers(t *testing.T, tensor *Tensor) []float32 {
	t.Helper()
	out := make([]float32, tensor.Len())
	if err := Read(tensor, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKnowsWhatIsInstalled(t *testing.T) {
	context, _ := open(t)
	if Version() != "0.9.0" {
		t.Error(Version())
	}
	if major, minor := ABIVersion(); major != 0 || minor != 9 {
		t.Error(major, minor)
	}
	found := false
	for _, plugin := range must[[]Plugin](t)(context.Plugins(KindOptimizer)) {
		found = found || plugin.ID == "galore"
	}
	if !found {
		t.Error("galore is not listed")
	}
	if info := must[map[string]interface{}](t)(context.Info("galore")); !strings.Contains(fmt.Sprint(info), "update_proj_gap") {
		t.Error(info)
	}
	_, err := context.Info("galor")
	refused(t, err, ErrNotFound, "did you mean 'galore'")
	_, err = context.Info("a\x00b")
	refused(t, err, ErrArgument, "NUL")
	_, err = context.Check([]Technique{{KindOptimizer, "adamw:beta2=1.5"}})
	refused(t, err, ErrArgument, "beta2=1.5")
	_, err = context.Session("abacus", 0)
	refused(t, err, ErrNotFound, "abacus")
	if mix := must[*Mix](t)(context.Check([]Technique{{KindOptimizer, "adamw"}, {KindQuantizer, "nf4"}})); mix.Possible || len(mix.Reasons) == 0 {
		t.Error(mix)
	}
}

func TestAdamWSavesAndResumesBitForBit(t *testing.T) {
	_, s := open(t)
	run := func(w *Tensor, first, n int, states []byte) []byte {
		adamw := must[*Optimizer](t)(s.Optimizer("adamw", Param{Shape: []int64{3, 5}, DType: Float32, Role: RoleQ}))
		defer adamw.Close()
		if states != nil {
			if err := adamw.Load(states); err != nil {
				t.Fatal(err)
			}
		}
		for i := first; i < first+n; i++ {
			g := wave(15)
			for k := range g {
				g[k] *= float32(1 + i)
			}
			if err := adamw.Step(Update{LR: 0.1}, []*Tensor{w}, []*Tensor{tensor(t, s, g, 3, 5)}); err != nil {
				t.Fatal(err)
			}
		}
		if steps := must[int64](t)(adamw.Steps()); steps != int64(first+n) {
			t.Error(steps)
		}
		return must[[]byte](t)(adamw.Save())
	}
	whole, parts := tensor(t, s, wave(15), 3, 5), tensor(t, s, wave(15), 3, 5)
	states := run(whole, 0, 5, nil)
	if again := run(parts, 2, 3, run(parts, 0, 2, nil)); !reflect.DeepEqual(states, again) || !reflect.DeepEqual(numbers(t, whole), numbers(t, parts)) {
		t.Error("resumed states differ")
	}
	sgd := must[*Optimizer](t)(s.Optimizer("sgd", Param{Shape: []int64{3, 5}, DType: Float32, Role: RoleQ}))
	refused(t, sgd.Load(states), ErrConflict, "states of adamw, not of sgd")
	refused(t, sgd.Load([]byte("nonsense, and more of it")), ErrFormat, "not the states")
	refused(t, sgd.Load(nil), ErrFormat, "no states")
}

func TestWrongTensorsAreRefusedAndNothingChanges(t *testing.T) {
	_, s := open(t)
	_, other := open(t)
	adamw := must[*Optimizer](t)(s.Optimizer("adamw", Param{Shape: []int64{4, 6}, DType: Float32, Role: RoleQ}))
	w, g := tensor(t, s, wave(24), 4, 6), tensor(t, s, wave(24), 4, 6)
	step := func(params, grads *Tensor) error {
		return adamw.Step(Update{LR: 0.1}, []*Tensor{params}, []*Tensor{grads})
	}
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	free := must[[]byte](t)(syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON))
	borrow := func(memory []byte, at int, dtype DType, shape, strides []int64) *Tensor {
		return must[*Tensor](t)(s.Borrow(unsafe.Pointer(&memory[at]), dtype, shape, strides))
	}
	shape := []int64{4, 6}
	refused(t, step(tensor(t, s, wave(24), 6, 4), g), ErrArgument, "shape")
	refused(t, step(borrow(free, 0, Float32, shape, []int64{1, 4}), g), ErrArgument, "row-major")
	refused(t, step(borrow(free, 2, Float32, shape, nil), g), ErrArgument, "aligned")
	refused(t, step(borrow(page, 0, Float32, shape, nil), g), ErrArgument, "cannot be written")
	refused(t, step(borrow(free, 0, Float64, shape, nil), g), ErrArgument, "float64")
	refused(t, step(w, borrow(free, 0, Int32, shape, nil)), ErrArgument, "the gradient has elements of the type int32")
	refused(t, step(w, borrow(free, 0, Float32, []int64{4, -6}, nil)), ErrArgument, "-6")
	refused(t, step(nil, g), ErrArgument, "none")
	refused(t, step(tensor(t, other, wave(24), 4, 6), g), ErrArgument, "another session")
	refused(t, adamw.Step(Update{}, nil, nil), ErrArgument, "for the 1 that are bound")
	if err := syscall.Munmap(free); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(numbers(t, w), wave(24)) || must[int64](t)(adamw.Steps()) != 0 {
		t.Error("something changed")
	}
	_, err = s.Borrow(nil, Float32, []int64{1, 1, 1, 1, 1}, nil)
	refused(t, err, ErrArgument, "dimensions")
	empty := must[*Tensor](t)(s.Borrow(nil, Float32, shape, nil))
	refused(t, step(empty, g), ErrArgument, "no memory")
	p := Param{Shape: []int64{2}, DType: Float32, Role: RoleQ, UID: 1}
	_, err = s.Optimizer("adamw", p, p)
	refused(t, err, ErrArgument, "uid")
	_, err = s.Optimizer("adamw", Param{Shape: []int64{2}, DType: Float64, Role: RoleQ})
	refused(t, err, ErrUnsupported, "")
	_, err = s.Optimizer("nf4")
	refused(t, err, ErrNotFound, "nf4")
}

func TestTensors(t *testing.T) {
	_, s := open(t)
	before := must[*SessionInfo](t)(s.Info()).LiveBytes
	w := tensor(t, s, wave(4), 4)
	if err := Map(w, func(values []float32) { values[1] = 7 }); err != nil {
		t.Fatal(err)
	}
	if numbers(t, w)[1] != 7 {
		t.Error("Map does not show the numbers themselves")
	}
	refused(t, Write(w, wave(3)), ErrArgument, "3 numbers were given for a tensor of 4")
	refused(t, Read(w, make([]float64, 4)), ErrArgument, "float64")
	refused(t, Read[float32](nil, nil), ErrArgument, "no tensor")
	_, err := s.Tensor(Weights, Float32, 1<<40, 1<<40)
	refused(t, err, ErrArgument, "makes no tensor")
	_, err = s.Tensor(Weights, Float32, 1<<30)
	refused(t, err, ErrMemory, "memory limit")
	_, err = s.Tensor(Category(99), Float32, 1)
	refused(t, err, ErrArgument, "category")
	_, err = s.Tensor(Weights, DType{9, 9}, 1)
	refused(t, err, ErrArgument, "bits")
	w.Close()
	refused(t, Read(w, make([]float32, 4)), ErrState, "the tensor is closed")
	if live := must[*SessionInfo](t)(s.Info()).LiveBytes; live != before {
		t.Error(live, before)
	}
}

func TestCodesAndDecodesAnyRange(t *testing.T) {
	_, s := open(t)
	nf4 := must[*Quantizer](t)(s.Quantizer("nf4"))
	coded := must[*Coded](t)(nf4.Encode(tensor(t, s, wave(64*128), 64, 128), RoleQ, "w", 0))
	whole, part := tensor(t, s, make([]float32, 64*128), 64, 128), tensor(t, s, make([]float32, 101), 101)
	if err := coded.Decode(0, coded.Len(), whole); err != nil {
		t.Fatal(err)
	}
	if err := coded.Decode(77, 178, part); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(numbers(t, part), numbers(t, whole)[77:178]) {
		t.Error("a range differs from the whole")
	}
	refused(t, coded.Decode(0, 100, part), ErrArgument, "cannot be decoded")
	refused(t, coded.Decode(-1, 100, part), ErrArgument, "cannot be decoded")
	refused(t, coded.Decode(0, 101, nil), ErrArgument, "none")
	_, err := nf4.Encode(tensor(t, s, []float32{float32(math.NaN())}, 1), RoleQ, "w", 0)
	refused(t, err, ErrNumeric, "")
	_, err = nf4.Encode(nil, RoleQ, "w", 0)
	refused(t, err, ErrArgument, "no tensor")
	nf4.Close()
	refused(t, coded.Decode(77, 178, part), ErrState, "the quantizer is closed")
}

func TestAttends(t *testing.T) {
	_, s := open(t)
	flash := must[*Attention](t)(s.Attention("flash-attention", AttentionConfig{Heads: 2, KVHeads: 1, HeadSize: 16}))
	q, k := tensor(t, s, wave(256), 1, 8, 2, 16), tensor(t, s, wave(128), 1, 8, 1, 16)
	o, lse := tensor(t, s, make([]float32, 256), 1, 8, 2, 16), tensor(t, s, make([]float32, 16), 1, 2, 8)
	if err := flash.Forward(q, k, k, 0, o, lse); err != nil {
		t.Fatal(err)
	}
	for i, x := range numbers(t, o)[:32] {
		if math.Abs(float64(x-wave(16)[i%16])) > 1e-6 {
			t.Fatal("the first token sees itself alone")
		}
	}
	refused(t, flash.Forward(k, k, k, 0, o, nil), ErrArgument, "q does not have the shape")
	refused(t, flash.Forward(q, k, nil, 0, o, nil), ErrArgument, "none")
	_, err := s.Attention("flash-attention", AttentionConfig{Heads: 3, KVHeads: 2, HeadSize: 16})
	refused(t, err, ErrArgument, "divide")
}

func TestClosedObjectsSaySo(t *testing.T) {
	context := must[*Context](t)(Open(os.Getenv("TENON_TEST_STORE")))
	s := must[*Session](t)(context.Session("onednn", 0))
	refused(t, context.Close(), ErrState, "1 sessions")
	adamw := must[*Optimizer](t)(s.Optimizer("adamw", Param{Shape: []int64{4}, DType: Float32, Role: RoleQ}))
	w := tensor(t, s, wave(4), 4)
	for i := 0; i < 2; i++ {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, adamw.Step(Update{LR: 1}, []*Tensor{w}, []*Tensor{w}), ErrState, "the session is closed")
	_, err := adamw.Spec()
	refused(t, err, ErrState, "the session is closed")
	refused(t, Read(w, wave(4)), ErrState, "the session is closed")
	adamw.Close()
	w.Close()
	for i := 0; i < 2; i++ {
		if err := context.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = context.Plugins()
	refused(t, err, ErrState, "the context is closed")
}

func TestFinalizersFreeWhatIsForgotten(t *testing.T) {
	context := must[*Context](t)(Open(os.Getenv("TENON_TEST_STORE")))
	s := must[*Session](t)(context.Session("onednn", 0))
	for i := 0; i < 50; i++ {
		tensor(t, s, wave(4096), 4096)
		must[*Quantizer](t)(s.Quantizer("nf4"))
		must[*Session](t)(context.Session("onednn", 0))
	}
	for i := 0; i < 20; i++ {
		runtime.GC()
		runtime.Gosched()
	}
	if live := must[*SessionInfo](t)(s.Info()).LiveBytes; live > 25*16384 {
		t.Errorf("%d bytes are alive", live)
	}
}

func TestSessionsRunInParallelAndCallsTakeTurns(t *testing.T) {
	context, shared := open(t)
	together := must[*Optimizer](t)(shared.Optimizer("adamw", Param{Shape: []int64{8, 8}, DType: Float32, Role: RoleQ}))
	w, g := tensor(t, shared, wave(64), 8, 8), tensor(t, shared, wave(64), 8, 8)
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			own, err := context.Session("onednn", 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			for k := 0; k < 10; k++ {
				if err := together.Step(Update{LR: 0.01}, []*Tensor{w}, []*Tensor{g}); err != nil {
					t.Error(err)
				}
				// Errors belong to their call, whatever thread it ran on.
				if _, err := own.Optimizer(fmt.Sprintf("adamw:beta2=%d", k+2)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("beta2=%d", k+2)) {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	if steps := must[int64](t)(together.Steps()); steps != 40 {
		t.Error(steps)
	}
}

func recipe(t *testing.T, changes Recipe) Recipe {
	t.Helper()
	folder := t.TempDir()
	var text strings.Builder
	for i := 0; i < 60; i++ {
		fmt.Fprintf(&text, "The joiner cut tenon %d to fit mortise %d.\n", i, i*7%60)
	}
	if err := os.WriteFile(filepath.Join(folder, "data.txt"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Recipe{"model": "preset:9m", "data": filepath.Join(folder, "data.txt"), "output": filepath.Join(folder, "out"), "adapter": []string{"lora:r=4"},
		"device": "onednn", "seq-len": 16, "batch-size": 2, "steps": 4, "held-out": 0.2}
	for key, value := range changes {
		r[key] = value
	}
	return r
}

func TestTrainsAndTells(t *testing.T) {
	trainer := must[*Trainer](t)(NewTrainer(recipe(t, nil), os.Getenv("TENON_TEST_STORE")))
	if plan := must[*Plan](t)(trainer.Plan()); !plan.Fits || plan.PlannedBytes == 0 {
		t.Error(plan)
	}
	var steps, points []int64
	loss := 0.0
	result := must[*Result](t)(trainer.Run(Events{
		Step: func(s Step) bool {
			steps, loss = append(steps, s.Step), s.Loss
			_, err := trainer.Plan()
			refused(t, err, ErrState, "in a call already")
			refused(t, trainer.Close(), ErrState, "running")
			return true
		},
		Evaluated: func(step int64, _, _ float64) { points = append(points, step) },
		Note:      func(string) {},
	}))
	if !reflect.DeepEqual(steps, []int64{1, 2, 3, 4}) || !reflect.DeepEqual(points, []int64{0, 4}) || *result.Loss != loss || result.Stopped {
		t.Error(steps, points, result)
	}
	_, err := trainer.Run(Events{})
	refused(t, err, ErrConflict, "already holds a run")
	if err := trainer.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = trainer.Run(Events{})
	refused(t, err, ErrState, "the trainer is closed")
	trainer.Stop()
}

func TestStopsByAnswerPanicAndGoroutine(t *testing.T) {
	store := os.Getenv("TENON_TEST_STORE")
	r := recipe(t, Recipe{"steps": 100000})
	trainer := must[*Trainer](t)(NewTrainer(r, store))
	if result := must[*Result](t)(trainer.Run(Events{Step: func(s Step) bool { return s.Step < 2 }})); result.Steps != 2 || !result.Stopped {
		t.Error(result)
	}
	r["resume"] = true
	trainer = must[*Trainer](t)(NewTrainer(r, store))
	func() {
		defer func() {
			if p := recover(); p != "the caller's own" {
				t.Error(p)
			}
		}()
		_, _ = trainer.Run(Events{Step: func(Step) bool { panic("the caller's own") }})
		t.Error("the panic was lost")
	}()
	r["resume"], r["overwrite"] = false, true
	trainer = must[*Trainer](t)(NewTrainer(r, store))
	go trainer.Stop()
	if result := must[*Result](t)(trainer.Run(Events{})); !result.Stopped {
		t.Error(result)
	}
}

func TestBadRecipesAreRefused(t *testing.T) {
	store := os.Getenv("TENON_TEST_STORE")
	_, err := NewTrainer(Recipe{}, store)
	refused(t, err, ErrArgument, "model")
	_, err = NewTrainer(recipe(t, Recipe{"optimiser": "adamw"}), store)
	refused(t, err, ErrArgument, "--optimizer")
	_, err = NewTrainer(recipe(t, Recipe{"quantizer": "nf5"}), store)
	refused(t, err, ErrNotFound, "nf4")
	_, err = NewTrainer(recipe(t, Recipe{"lr": math.NaN()}), store)
	refused(t, err, ErrArgument, "JSON")
	_, err = must[*Trainer](t)(NewTrainer(recipe(t, Recipe{"data": "none.txt"}), store)).Run(Events{})
	refused(t, err, ErrNotFound, "none.txt")
	if keys := must[[]RecipeKey](t)(RecipeKeys()); len(keys) < 20 {
		t.Error(keys)
	}
}
