// The mixer of one layer that owns its projections (org.tenon.mixer/1), in the place of q, k, v, attention and o.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "hosts/trainer/model/attention.h"
#include "hosts/trainer/model/linear.h"
#include "tenon/mixer.h"

namespace tenon::trainer {

// How a mixer is being called, and on what.
struct MixerCall {
  int64_t sequences = 0, length = 0;
  Tensor positions;
  const Segments* segments = nullptr;
  LinearCall linear;
  const Linear* linears = nullptr;                 // of the block: q, k, v, o first
  SavedLinear* saved_linears = nullptr;            // likewise
  std::map<uint32_t, Tensor>* saved = nullptr;     // slots; null: nothing is kept
  const DecodeState* decode = nullptr;             // of the sequence that the rows continue
  int64_t past = 0;
};

class SublayerMixer {
 public:
  // Opens a core kernel for the mixer's own use.
  using OpenCore = std::function<AttentionLayer(const char* spec, const tn_attention_config& config, int64_t window)>;
  // A parameter as the mixer declared it.
  struct Declared {
    tn_mixer_param info;
    std::string key;
    bool is_buffer() const { return (info.flags & TN_MIXER_PARAM_BUFFER) != 0; }
  };
  // rows of the model's own weight of a role, in f32, into `out`.
  using ReadRows = std::function<void(uint32_t role, int64_t begin, int64_t end, const Tensor& out)>;

  // The instance is the caller's.
  SublayerMixer(Engine& engine, const tn_attention_api* api, const tn_mixer_api* mixer, tn_attention* self, const tn_mixer_layer& layer,
                const OpenCore& open);
  SublayerMixer(const SublayerMixer&) = delete;

  bool keeps(uint32_t role) const;
  const std::vector<Declared>& declared() const { return declared_; }
  std::vector<Parameter*> parameters;  // by id; the model's

  bool trains() const;
  void start(Engine& engine, const tn_rng& rng, bool buffers_only, const ReadRows& read) const;
  // y[rows, hidden] from x[rows, hidden].
  void forward(Engine& engine, const MixerCall& call, const Tensor& x, const Tensor& y) const;
  // dx null: nothing below trains. x as in forward.
  void backward(Engine& engine, const MixerCall& call, const Tensor& x, const Tensor& dy, const Tensor* dx) const;
  // What it remembers of a sequence of up to `tokens` tokens, before the first of them.
  DecodeState start_sequence(Engine& engine, int64_t tokens) const;

 private:
  struct Table;
  struct Binding;
  void run(Engine& engine, const MixerCall& call, int64_t rows, bool gradients, const ReadRows* read,
           const std::function<int32_t(const tn_mixer_ops*, Table&)>& body) const;

  const tn_attention_api* api_;
  const tn_mixer_api* mixer_;
  tn_attention* self_;
  int64_t hidden_;
  std::vector<uint32_t> kept_;
  std::vector<Declared> declared_;
  std::vector<AttentionLayer> cores_;
};

}  // namespace tenon::trainer
