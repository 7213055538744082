package tenon

// #include <stdlib.h>
// #include <tenon/trainer.h>
// extern int32_t tenonGoWrite(void*, void*, uint64_t);
// extern int32_t tenonGoStep(void*, tn_trainer_step*);
// extern void tenonGoEvaluated(void*, int64_t, double, double);
// extern void tenonGoNote(void*, char*);
// static void* write_callback(void) { return (void*)tenonGoWrite; }
// static void* step_callback(void) { return (void*)tenonGoStep; }
// static void* evaluated_callback(void) { return (void*)tenonGoEvaluated; }
// static void* note_callback(void) { return (void*)tenonGoNote; }
import "C"

import (
	"encoding/json"
	"runtime"
	"runtime/cgo"
	"sync"
	"unsafe"

	"tenon/internal/ffi"
)

// held is C memory with a handle of a Go value.
func held(value interface{}) (self unsafe.Pointer, free func()) {
	self = C.calloc(1, 8)
	if self == nil {
		panic("tenon: out of memory")
	}
	handle := cgo.NewHandle(value)
	*(*cgo.Handle)(self) = handle
	return self, func() {
		handle.Delete()
		C.free(self)
	}
}

func newSink(write func([]byte)) (*ffi.Sink, func()) {
	self, free := held(write)
	sink := &ffi.Sink{Self: self, Write: C.write_callback()}
	sink.StructSize = uint32(unsafe.Sizeof(*sink))
	return sink, free
}

// Recipe is the flags of `tenon train` without dashes: {"model": "preset:9m", "data": "book.txt", "output": "out", "steps": 100}.
type Recipe map[string]interface{}

// RecipeKey is something that a recipe may say.
type RecipeKey struct {
	Name    string  `json:"name"`
	Default *string `json:"default"`
	Switch  bool    `json:"switch"`
	Repeats bool    `json:"repeats"`
	Doc     string  `json:"doc"`
}

// RecipeKeys lists what a recipe may say.
func RecipeKeys() ([]RecipeKey, error) {
	var out *byte
	if err := checkTrainer(func() int32 { return ffi.TrainerRecipeKeys(&out) }); err != nil {
		return nil, err
	}
	var keys []RecipeKey
	return keys, json.Unmarshal([]byte(take(out)), &keys)
}

// Step is one optimizer step that is done.
type Step struct {
	Step, TotalSteps, Tokens            int64
	Loss, LR, GradNorm, TokensPerSecond float64
	LiveBytes, PeakBytes                uint64
	Skipped, Degraded                   bool
}

// Events is who is told what happens; each may be nil. A panic in one of them ends the run first and goes on in Run.
type Events struct {
	Step      func(Step) bool // false: end after this step, with a checkpoint for "resume"
	Evaluated func(step int64, loss, perplexity float64)
	Note      func(sentence string)
}

type told struct {
	events   Events
	trainer  *Trainer
	panicked interface{}
}

func (t *told) guarded(function func()) {
	defer func() {
		if p := recover(); p != nil && t.panicked == nil {
			t.panicked = p
			t.trainer.Stop()
		}
	}()
	function()
}

// Plan is what a run would allocate.
type Plan struct {
	PlannedBytes uint64            `json:"planned_bytes"`
	Fits         bool              `json:"fits"`
	Limit        uint64            `json:"limit"`
	Parameters   int64             `json:"parameters"`
	Categories   map[string]uint64 `json:"categories"`
	Alternatives []struct {
		Flags        string `json:"flags"`
		PlannedBytes uint64 `json:"planned_bytes"`
		Fits         bool   `json:"fits"`
	} `json:"alternatives"`
}

// Result of a run.
type Result struct {
	Steps               int64    `json:"steps"`
	Loss                *float64 `json:"loss"`
	Stopped             bool     `json:"stopped"`
	Final               string   `json:"final"`
	PlannedBytes        uint64   `json:"planned_bytes"`
	PeakBytes           uint64   `json:"peak_bytes"`
	TokensPerSecond     float64  `json:"tokens_per_second"`
	Seconds             float64  `json:"seconds"`
	TrainableParameters int64    `json:"trainable_parameters"`
	Parameters          int64    `json:"parameters"`
	SkippedSteps        int64    `json:"skipped_steps"`
	Evaluations         []struct {
		Step       int64   `json:"step"`
		Loss       float64 `json:"loss"`
		Perplexity float64 `json:"perplexity"`
	} `json:"evaluations"`
}

// Trainer is a recipe, checked against what is installed.
type Trainer struct {
	mutex sync.RWMutex // written to close; Stop reads
	busy  sync.Mutex
	raw   *ffi.Trainer
}

// NewTrainer checks recipe and mix and opens the device; stores as in Open.
func NewTrainer(recipe Recipe, stores ...string) (*Trainer, error) {
	data, err := json.Marshal(recipe)
	if err != nil {
		return nil, refuse(ErrArgument, "the recipe cannot be written as JSON: %v", err)
	}
	var a arena
	defer a.free()
	list, words := a.texts(stores), a.text(string(data))
	if a.bad != nil {
		return nil, a.bad
	}
	var made *ffi.Trainer
	if err := checkTrainer(func() int32 { return ffi.TrainerCreate(list, uint64(len(stores)), words, &made) }); err != nil {
		return nil, err
	}
	t := &Trainer{raw: made}
	runtime.SetFinalizer(t, (*Trainer).Close)
	return t, nil
}

// Close frees the trainer. While it runs, that is refused. Closing twice does nothing.
func (t *Trainer) Close() error {
	if !t.busy.TryLock() {
		return refuse(ErrState, "the trainer is running; stop it and wait before closing it")
	}
	defer t.busy.Unlock()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	ffi.TrainerDestroy(t.raw)
	t.raw = nil
	runtime.SetFinalizer(t, nil)
	return nil
}

func (t *Trainer) json(answer interface{}, function func(out **byte) int32) error {
	if !t.busy.TryLock() {
		return refuse(ErrState, "this trainer is in a call already; wait for it, or make another trainer")
	}
	defer t.busy.Unlock()
	if t.raw == nil {
		return refuse(ErrState, "the trainer is closed; make a new one")
	}
	var out *byte
	if err := checkTrainer(func() int32 { return function(&out) }); err != nil {
		return err
	}
	return json.Unmarshal([]byte(take(out)), answer)
}

// Plan forecasts the memory of the run.
func (t *Trainer) Plan() (*Plan, error) {
	plan := &Plan{}
	if err := t.json(plan, func(out **byte) int32 { return ffi.TrainerPlan(t.raw, out) }); err != nil {
		return nil, err
	}
	return plan, nil
}

// Run trains to the end or until stopped; events are told on this goroutine.
func (t *Trainer) Run(events Events) (*Result, error) {
	state := &told{events: events, trainer: t}
	self, free := held(state)
	defer free()
	table := ffi.TrainerEvents{Self: self}
	table.StructSize = uint32(unsafe.Sizeof(table))
	if events.Step != nil {
		table.Step = C.step_callback()
	}
	if events.Evaluated != nil {
		table.Evaluated = C.evaluated_callback()
	}
	if events.Note != nil {
		table.Note = C.note_callback()
	}
	result := &Result{}
	err := t.json(result, func(out **byte) int32 { return ffi.TrainerRun(t.raw, &table, out) })
	if state.panicked != nil {
		panic(state.panicked)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// Stop ends the run in progress, or the next one, after the step that it is in. From any goroutine.
func (t *Trainer) Stop() {
	t.mutex.RLock()
	defer t.mutex.RUnlock()
	ffi.TrainerStop(t.raw)
}
