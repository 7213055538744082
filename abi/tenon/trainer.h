/* libtenon_trainer 0.9: a whole training session for programs in any language.
 *
 * A trainer is a recipe that was checked against what is installed: a JSON object whose keys are the flags of `tenon train` without
 * the dashes ({"model": "preset:9m", "data": "book.txt", "output": "out", "optimizer": "galore:rank=64", "steps": 100}; switches are
 * true or false, flags that may be given again take lists). libtenon_trainer stands alone: it needs no libtenon beside it, and does not
 * mind one. Functions answer a status of status.h; tn_trainer_last_error explains a negative one. Texts are UTF-8; a text that is
 * answered is freed with tn_trainer_free_string.
 *
 * Threads: a trainer serves one call at a time, tn_trainer_stop alone may come at any time; different trainers run in parallel. Freeing
 * null does nothing. */
#ifndef TENON_TRAINER_H
#define TENON_TRAINER_H

#include "tenon/tenon.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_trainer tn_trainer;

enum { TN_TRAINER_SKIPPED = 1 /* NaN or Inf, or no token to predict: nothing was changed */, TN_TRAINER_DEGRADED = 2 /* an older basis was kept */ };

/* One optimizer step that is done. */
typedef struct tn_trainer_step {
  uint32_t struct_size;
  uint32_t flags; /* TN_TRAINER_* */
  int64_t step;   /* from 1, steps of a resumed run included */
  int64_t total_steps;
  int64_t tokens; /* predicted in this step */
  double loss;    /* mean nats of a token, before the update */
  double lr;
  double grad_norm;
  double tokens_per_second; /* of this run so far, its first step left out */
  uint64_t live_bytes;      /* accounted memory of the run now */
  uint64_t peak_bytes;      /* and at its highest */
} tn_trainer_step;          /* fence 0.9 */

/* What the caller is told, on the thread that called tn_trainer_run. Any may be null. Pointers are valid during the call. */
typedef struct tn_trainer_events {
  uint32_t struct_size;
  uint32_t reserved;
  void* self;
  /* Not 0: end after this step, with a checkpoint for "resume". */
  int32_t (*step)(void* self, const tn_trainer_step* step);
  /* Held-out loss (nats a token) and perplexity after `step` steps; 0 = before the first. */
  void (*evaluated)(void* self, int64_t step, double loss, double perplexity);
  /* One sentence for the user. */
  void (*note)(void* self, const char* sentence);
} tn_trainer_events; /* fence 0.9 */

/* [{"name", "default", "switch", "repeats", "doc"}]: what a recipe may say. [any-thread] */
TN_API int32_t tn_trainer_recipe_keys(char** json);

/* Checks recipe and mix and opens the device; stores as in tn_context_open. "model" is needed; nothing is allocated yet. */
TN_API int32_t tn_trainer_create(const char* const* stores, uint64_t n, const char* recipe, tn_trainer** out);
TN_API void tn_trainer_destroy(tn_trainer* trainer);

/* What the run would allocate: {"planned_bytes", "planned_offloaded_bytes", "categories": {name: bytes}, "parameters", "limit", "fits", "alternatives": [{"flags",
 * "planned_bytes", "fits"}]}; alternatives where a "memory-limit" does not hold. No weight is read and no memory of that size used. */
TN_API int32_t tn_trainer_plan(tn_trainer* trainer, char** json);

/* Trains; returns when the run is done or stopped. "data" and "output" are needed. events: null = tell nothing. json (may be null):
 * {"steps", "loss", "evaluations": [{"step", "loss", "perplexity"}], "stopped", "final", "planned_bytes", "peak_bytes", "planned_offloaded_bytes", "offloaded_bytes", "planned", "peak",
 * "tokens_per_second", "seconds", "trainable_parameters", "parameters", "skipped_steps"}. */
TN_API int32_t tn_trainer_run(tn_trainer* trainer, const tn_trainer_events* events, char** json);

/* Ends the run in progress, or the next one, after the step that it is in, with a checkpoint. [any-thread] */
TN_API void tn_trainer_stop(tn_trainer* trainer);

/* Why the last call on this thread that failed did so: one sentence, valid until the next call on this thread. "" = nothing failed yet. */
TN_API const char* tn_trainer_last_error(void);
TN_API void tn_trainer_free_string(char* text);

#ifdef __cplusplus
}
#endif

#endif
