/* The worked example of every binding, in C: what it prints is what each of them must print, digit for digit.
 * reference STORE FOLDER: the store of the plugins, and an empty folder for the training run. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/trainer.h"

static void must(int32_t status) {
  if (status >= 0) return;
  const char* const sentence = tn_last_error();
  fprintf(stderr, "%s: %s\n", tn_status_name(status), *sentence ? sentence : tn_trainer_last_error());
  exit(1);
}

/* n numbers of [-0.5, 0.5) that every language makes alike: the upper bits of a linear congruential generator, exact in f32. */
static float* fill(size_t n, uint64_t seed) {
  float* const out = malloc(n * sizeof *out);
  for (size_t i = 0; i < n; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    out[i] = (float)((double)(seed >> 40) / 16777216.0 - 0.5);
  }
  return out;
}

/* FNV-1a. */
static uint64_t digest(const void* bytes, size_t n) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < n; ++i) h = (h ^ ((const unsigned char*)bytes)[i]) * 1099511628211u;
  return h;
}

static const tn_dtype kF32 = {TN_FLOAT, 32, 1};

static tn_tensor borrow(float* data, int32_t ndim, int64_t* shape, int64_t* strides) {
  int64_t stride = 1;
  for (int32_t i = ndim - 1; i >= 0; --i) strides[i] = stride, stride *= shape[i];
  const tn_tensor t = {data, {TN_CPU, 0}, ndim, kF32, shape, strides, 0};
  return t;
}

/* The text after "key":" up to the next quote. Enough for what is read here. */
static char* next_text(char* at, const char* key, char** text) {
  char* const found = strstr(at, key);
  if (!found) return NULL;
  *text = found + strlen(key);
  char* const end = strchr(*text, '"');
  *end = '\0';
  return end + 1;
}

static void catalog(tn_context* context) {
  char *json, *id;
  must(tn_plugin_list(context, NULL, &json));
  printf("catalog:");
  const char* separator = " ";
  for (char* at = json; (at = next_text(at, "\"id\":\"", &id)); separator = ", ") printf("%s%s", separator, id);
  printf("\n");
  tn_free_string(json);
}

static void mix(tn_context* context) {
  const uint32_t kinds[] = {TN_KIND_OPTIMIZER, TN_KIND_ADAPTER, TN_KIND_QUANTIZER, TN_KIND_ATTENTION};
  const char* const specs[] = {"galore:rank=4", "lora:r=4", "nf4", "flash-attention"};
  const char* const tags[] = {"device:abacus"};
  char *json, *sentence = "";
  must(tn_check(context, kinds, specs, 4, NULL, 0, &json));
  printf("mix: %s", strstr(json, "\"possible\":true") ? "possible" : "not possible");
  tn_free_string(json);
  must(tn_check(context, kinds, specs, 1, tags, 1, &json));
  next_text(json, "\"sentence\":\"", &sentence);
  printf("; %s\n", sentence);
  tn_free_string(json);
}

/* Linear regression of 16 samples: mean squared error of X Wᵀ against X Tᵀ, in f64, in the order of the loops. */
enum { kSamples = 16, kIn = 16, kOut = 8, kSteps = 150 };
static double loss_and_gradient(const float* x, const float* t, const float* w, float* g) {
  double loss = 0, sums[kOut * kIn] = {0};
  for (int s = 0; s < kSamples; ++s) {
    for (int o = 0; o < kOut; ++o) {
      double error = 0;
      for (int i = 0; i < kIn; ++i) error += (double)x[s * kIn + i] * ((double)w[o * kIn + i] - (double)t[o * kIn + i]);
      loss += error * error;
      for (int i = 0; i < kIn; ++i) sums[o * kIn + i] += error * (double)x[s * kIn + i];
    }
  }
  for (int k = 0; k < kOut * kIn; ++k) g[k] = (float)(sums[k] * (2.0 / (kSamples * kOut)));
  return loss / (kSamples * kOut);
}

static void regression(tn_session* session) {
  tn_technique* galore;
  must(tn_technique_create(session, TN_KIND_OPTIMIZER, "galore:rank=4,update_proj_gap=10,scale=1", &galore));
  tn_param p = {0};
  p.struct_size = TN_SIZE_TO(tn_param, name);
  p.uid = 1, p.role = TN_ROLE_Q, p.repr = TN_REPR_DENSE, p.tied_to = -1, p.dtype = kF32, p.ndim = 2, p.in_axis = 1;
  p.shape[0] = kOut, p.shape[1] = kIn, p.name = "w";
  const tn_param* const params[] = {&p};
  must(tn_optimizer_bind(galore, params, 1));
  float *x = fill(kSamples * kIn, 1), *t = fill(kOut * kIn, 2), *w = fill(kOut * kIn, 3), *g = fill(kOut * kIn, 4);
  int64_t shape[2] = {kOut, kIn}, strides[2];
  tn_tensor weight = borrow(w, 2, shape, strides), gradient = borrow(g, 2, shape, strides);
  tn_tensor *weights[] = {&weight}, *gradients[] = {&gradient};
  tn_update update = {TN_SIZE_TO(tn_update, grad_scale), 0, 0, 0, 7, 0.05, 1};
  const double first = loss_and_gradient(x, t, w, g);
  for (int step = 0; step < kSteps; ++step) {
    must(tn_optimizer_step(galore, &update, weights, gradients));
    (void)loss_and_gradient(x, t, w, g);
  }
  printf("galore: loss %.6f, after %d steps %.6f, digest %016llx\n", first, kSteps, loss_and_gradient(x, t, w, g),
         (unsigned long long)digest(w, kOut * kIn * 4));
  tn_technique_destroy(galore);
  free(x), free(t), free(w), free(g);
}

static void codec(tn_session* session) {
  tn_technique* nf4;
  must(tn_technique_create(session, TN_KIND_QUANTIZER, "nf4", &nf4));
  float *m = fill(64 * 128, 11), *back = fill(64 * 128, 0);
  int64_t shape[2] = {64, 128}, strides[2];
  const tn_tensor src = borrow(m, 2, shape, strides);
  tn_tensor dst = borrow(back, 2, shape, strides);
  tn_target target = {0};
  target.struct_size = TN_SIZE_TO(tn_target, name);
  target.site = TN_SITE_WEIGHT, target.role = TN_ROLE_OTHER, target.ndim = 2, target.dtype = kF32, target.shape[0] = 64, target.shape[1] = 128;
  target.name = "matrix";
  tn_coded* coded;
  must(tn_quantizer_encode(nf4, &target, &src, 1, &coded));
  must(tn_quantizer_decode(nf4, coded, 0, 64 * 128, &dst));
  double worst = 0;
  for (int i = 0; i < 64 * 128; ++i) worst = fmax(worst, fabs((double)back[i] - (double)m[i]));
  printf("nf4: %llu bytes, worst error %.6f, digest %016llx\n", (unsigned long long)tn_coded_bytes(coded), worst,
         (unsigned long long)digest(back, 64 * 128 * 4));
  tn_coded_free(coded);
  tn_technique_destroy(nf4);
  free(m), free(back);
}

static void attention(tn_session* session) {
  tn_attention_config config = {0};
  config.struct_size = TN_SIZE_TO(tn_attention_config, softcap);
  config.n_heads = config.n_heads_global = 4, config.n_kv_heads = 2, config.d_qk = config.d_v = 16, config.n_layers = 1;
  tn_technique* flash;
  must(tn_attention_create(session, "flash-attention", &config, &flash));
  float *q = fill(16 * 4 * 16, 21), *k = fill(16 * 2 * 16, 22), *v = fill(16 * 2 * 16, 23), *o = fill(16 * 4 * 16, 0);
  int64_t wide[4] = {1, 16, 4, 16}, narrow[4] = {1, 16, 2, 16}, wide_strides[4], narrow_strides[4];
  const tn_tensor tq = borrow(q, 4, wide, wide_strides), tk = borrow(k, 4, narrow, narrow_strides), tv = borrow(v, 4, narrow, narrow_strides);
  tn_tensor to = borrow(o, 4, wide, wide_strides);
  must(tn_attention_forward(flash, &tq, &tk, &tv, 0, &to, NULL));
  printf("attention: digest %016llx\n", (unsigned long long)digest(o, 16 * 4 * 16 * 4));
  tn_technique_destroy(flash);
  free(q), free(k), free(v), free(o);
}

typedef struct {
  double losses[16];
  int n;
} Losses;

static int32_t on_step(void* self, const tn_trainer_step* step) {
  Losses* const losses = self;
  losses->losses[losses->n++] = step->loss;
  return 0;
}

static void training(const char* store, const char* folder) {
  char text[4096], recipe[8192];
  snprintf(text, sizeof text, "%s/data.txt", folder);
  FILE* const data = fopen(text, "w");
  if (!data) exit(1);
  for (int i = 0; i < 60; ++i) fprintf(data, "The joiner cut tenon %d to fit mortise %d.\n", i, i * 7 % 60);
  fclose(data);
  snprintf(recipe, sizeof recipe,
           "{\"model\": \"preset:9m\", \"data\": \"%s/data.txt\", \"output\": \"%s/out\", \"device\": \"onednn\", \"adapter\": \"lora:r=4\", "
           "\"quantizer\": \"nf4\", \"optimizer\": \"galore:rank=4\", \"seq-len\": 32, \"batch-size\": 2, \"steps\": 5, \"lr\": 0.01, "
           "\"schedule\": \"constant\", \"seed\": 3}",
           folder, folder);
  tn_trainer* trainer;
  must(tn_trainer_create(&store, 1, recipe, &trainer));
  Losses losses = {0};
  tn_trainer_events events = {0};
  events.struct_size = TN_SIZE_TO(tn_trainer_events, note);
  events.self = &losses, events.step = on_step;
  must(tn_trainer_run(trainer, &events, NULL));
  printf("train: %d steps, loss %.6f, digest %016llx\n", losses.n, losses.losses[losses.n - 1], (unsigned long long)digest(losses.losses, losses.n * 8));
  tn_trainer_destroy(trainer);
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "reference STORE FOLDER\n"), 2;
  const char* const store = argv[1];
  tn_context* context;
  tn_session* session;
  must(tn_context_open(&store, 1, &context));
  must(tn_session_open(context, "onednn", 0, &session));
  catalog(context);
  mix(context);
  regression(session);
  codec(session);
  attention(session);
  training(store, argv[2]);
  tn_session_close(session);
  tn_context_close(context);
  return 0;
}
