/* Steps the installed plugin through libtenon and compares it with the rule in double. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tenon/tenon.h"

enum { N = 1000, STEPS = 20 };

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, tn_last_error());
  return 1;
}

int main(void) {
  tn_context* context = NULL;
  tn_session* session = NULL;
  tn_technique* lion = NULL;
  tn_tensor *weights = NULL, *gradients = NULL;
  const tn_dtype f32 = {TN_FLOAT, 32, 1};
  int64_t shape[1] = {N};
  if (tn_context_open(NULL, 0, &context) < 0 || tn_session_open(context, "onednn", 0, &session) < 0)
    return failed("a session");
  if (tn_technique_create(session, TN_KIND_OPTIMIZER, "lion:weight_decay=0.1", &lion) < 0) return failed("the plugin");
  if (tn_tensor_alloc(session, TN_MEMORY_WEIGHTS, &f32, 1, shape, &weights) < 0 ||
      tn_tensor_alloc(session, TN_MEMORY_GRADIENTS, &f32, 1, shape, &gradients) < 0)
    return failed("memory");
  tn_param param = {
      TN_SIZE_TO(tn_param, name), 1, TN_ROLE_OTHER, TN_REPR_DENSE, -1, -1, 0, 0, f32, 1, -1, 0, {N}, "weights"};
  const tn_param* params[] = {&param};
  if (tn_optimizer_bind(lion, params, 1) < 0) return failed("bind");

  float w[N], g[N];
  double rule[N], m[N] = {0};
  for (int i = 0; i < N; ++i) rule[i] = w[i] = (float)sin(i);
  tn_tensor_write(session, weights, w, sizeof w);
  const tn_update update = {TN_SIZE_TO(tn_update, grad_scale), 0, STEPS, 0, 1, 1e-2, 1};
  for (int t = 1; t <= STEPS; ++t) {
    for (int i = 0; i < N; ++i) g[i] = (float)cos(0.7 * i + t);
    tn_tensor_write(session, gradients, g, sizeof g);
    if (tn_optimizer_step(lion, &update, &weights, &gradients) < 0) return failed("a step");
    for (int i = 0; i < N; ++i) {
      const double c = 0.9 * m[i] + 0.1 * g[i];
      m[i] = 0.99 * m[i] + 0.01 * g[i];
      rule[i] -= 1e-2 * ((c > 0) - (c < 0) + 0.1 * rule[i]);
    }
  }
  tn_tensor_read(session, weights, w, sizeof w);
  int wrong = 0;
  for (int i = 0; i < N; ++i) wrong += fabs(w[i] - rule[i]) > 1e-5;
  printf("%d of %d weights differ from the rule after %d steps\n", wrong, N, STEPS);
  tn_tensor_free(session, weights), tn_tensor_free(session, gradients);
  tn_technique_destroy(lion), tn_session_close(session), tn_context_close(context);
  return wrong > 0;
}
