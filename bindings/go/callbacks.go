package tenon

// #include <tenon/trainer.h>
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// What the library calls. `self` is C memory that holds a cgo.Handle.

func handleAt(self unsafe.Pointer) interface{} { return (*(*cgo.Handle)(self)).Value() }

//export tenonGoWrite
func tenonGoWrite(self, bytes unsafe.Pointer, n C.uint64_t) C.int32_t {
	handleAt(self).(func([]byte))(unsafe.Slice((*byte)(bytes), int(n)))
	return 0
}

//export tenonGoStep
func tenonGoStep(self unsafe.Pointer, s *C.tn_trainer_step) C.int32_t {
	t := handleAt(self).(*told)
	going := true
	t.guarded(func() {
		going = t.events.Step(Step{
			Step: int64(s.step), TotalSteps: int64(s.total_steps), Tokens: int64(s.tokens), Loss: float64(s.loss), LR: float64(s.lr),
			GradNorm: float64(s.grad_norm), TokensPerSecond: float64(s.tokens_per_second), LiveBytes: uint64(s.live_bytes), PeakBytes: uint64(s.peak_bytes),
			Skipped: s.flags&C.TN_TRAINER_SKIPPED != 0, Degraded: s.flags&C.TN_TRAINER_DEGRADED != 0,
		})
	})
	if going && t.panicked == nil {
		return 0
	}
	return 1
}

//export tenonGoEvaluated
func tenonGoEvaluated(self unsafe.Pointer, step C.int64_t, loss, perplexity C.double) {
	t := handleAt(self).(*told)
	t.guarded(func() { t.events.Evaluated(int64(step), float64(loss), float64(perplexity)) })
}

//export tenonGoNote
func tenonGoNote(self unsafe.Pointer, sentence *C.char) {
	t := handleAt(self).(*told)
	t.guarded(func() { t.events.Note(C.GoString(sentence)) })
}
