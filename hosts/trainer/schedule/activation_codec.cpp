#include "hosts/trainer/schedule/activation_codec.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "hosts/trainer/engine/sinks.h"
#include "hosts/trainer/engine/views.h"
#include "hosts/trainer/random.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kSaveStream = 0x53415645;  // random stream of saved tensors
constexpr uint32_t kSlotsPerBlock = 16;

// What backward does with each tensor that a block saves; a name that is not here waits as it is.
struct Place {
  const char* name;
  uint32_t use;
};
constexpr Place kPlaces[] = {{"x", TN_ACTIVATION_NORM_INPUT},
                             {"middle", TN_ACTIVATION_NORM_INPUT},
                             {"q_raw", TN_ACTIVATION_NORM_INPUT},
                             {"k_raw", TN_ACTIVATION_NORM_INPUT},
                             {"q", TN_ACTIVATION_ATTENTION_OPERAND},
                             {"k", TN_ACTIVATION_ATTENTION_OPERAND},
                             {"v", TN_ACTIVATION_ATTENTION_OPERAND},
                             {"o", TN_ACTIVATION_LINEAR_INPUT},
                             {"gate", TN_ACTIVATION_NONLINEAR_INPUT},
                             {"up", TN_ACTIVATION_NONLINEAR_INPUT},
                             {"attention_out", TN_ACTIVATION_LINEAR_INPUT},
                             {"mlp_out", TN_ACTIVATION_LINEAR_INPUT}};
static_assert(std::size(kPlaces) <= kSlotsPerBlock);

tn_activation describe(size_t place, int32_t block, int64_t rows, int64_t channels, int64_t heads, tn_dtype dtype) {
  const uint32_t slot = static_cast<uint32_t>(block) * kSlotsPerBlock + static_cast<uint32_t>(place);
  return {sizeof(tn_activation), kPlaces[place].use, slot, block, rows, channels, heads, dtype, 0};
}

// Channels and heads of a place. q_raw and k_raw are rows of one head each.
std::pair<int64_t, int64_t> width_of(size_t place, const ModelConfig& model, int64_t block) {
  const ModelConfig c = model.of_block(block);
  const std::string_view name = kPlaces[place].name;
  if (name == "q" || name == "o") return {c.q_width(), c.heads};
  if (name == "k" || name == "v") return {c.kv_width(), c.kv_heads};
  if (name == "q_raw" || name == "k_raw") return {c.head_dim, 0};
  if (name == "gate" || name == "up") return {c.intermediate, 0};
  return {c.width(2 * block + (name == "x" ? 0 : name == "mlp_out" ? 2 : 1)), 0};
}

// The same through the codec's own table, where it has no extension.
tn_target target_of(const tn_activation& a) {
  return {sizeof(tn_target), TN_SITE_ACTIVATION, 0, a.slot, a.block, 2, a.dtype, 0, {a.rows, a.channels, 0, 0}, "a saved activation"};
}

// A tensor that waits as it is.
struct Kept : Stowed {
  explicit Kept(Tensor t) : tensor(std::move(t)) {}
  Tensor restore() override { return std::move(tensor); }
  Tensor tensor;
};

std::unique_ptr<Stowed> hand_on(ActivationStage* next, const SavedTag& tag, Tensor t) {
  return next ? next->stow(tag, std::move(t)) : std::make_unique<Kept>(std::move(t));
}

}  // namespace

// A tensor that waits as the components of its token.
struct ActivationCodec::Coded : Stowed {
  const ActivationCodec* codec = nullptr;
  tn_activation what{};
  tn_dtype dtype{};
  std::vector<int64_t> shape;
  std::vector<std::unique_ptr<Stowed>> parts;

  void prefetch() override {
    for (const auto& p : parts) p->prefetch();
  }
  Tensor restore() override {
    std::vector<Tensor> token;
    for (const auto& p : parts) token.push_back(p->restore());
    const Tensor x = codec->engine_.empty(Category::kActivations, dtype, shape.data(), static_cast<int>(shape.size()));
    codec->restore(what, token, x.reshaped({what.rows, what.channels}));
    return x;
  }
};

ActivationCodec::ActivationCodec(Engine& engine, const SiteCodec& codec, const ModelConfig& config, uint64_t seed, ActivationStage* next)
    : engine_(engine), codec_(codec), seed_(seed), next_(next) {
  if (!codec_.activation || !codec_.activation->statistics) return;
  for (int64_t block = 0; block < config.layers; ++block)
    for (size_t i = 0; i < std::size(kPlaces); ++i) {
      const auto [channels, heads] = width_of(i, config, block);
      const tn_activation what = describe(i, static_cast<int32_t>(block), 0, channels, heads, engine.compute());
      std::vector<std::string> names;
      std::vector<Tensor>& kept = statistics_[what.slot];
      const ComponentTensors declared(engine, Category::kCodec, kept, &names);
      check(codec_.activation->statistics(codec_.self, &what, declared.sink()), "planning the statistics of activations");
      for (size_t k = 0; k < kept.size(); ++k) {
        engine.zero(kept[k]);
        named_["activation." + std::to_string(block) + "." + kPlaces[i].name + "." + names[k]] = kept[k];
      }
    }
}

std::unique_ptr<Stowed> ActivationCodec::stow(const SavedTag& tag, Tensor x) {
  const auto place = std::find_if(std::begin(kPlaces), std::end(kPlaces), [&](const Place& p) { return std::string_view(p.name) == tag.name; });
  if (place == std::end(kPlaces) || x.count() == 0 || x.ndim() < 2) return hand_on(next_, tag, std::move(x));
  const int64_t rows = x.dim(0), heads = x.ndim() == 3 ? x.dim(1) : 0;
  auto coded = std::make_unique<Coded>();
  coded->codec = this, coded->dtype = x.dtype(), coded->shape.assign(x.shape(), x.shape() + x.ndim());
  coded->what = describe(static_cast<size_t>(place - std::begin(kPlaces)), tag.block, rows, x.count() / rows, heads, x.dtype());
  std::vector<Tensor> token;
  std::vector<std::string> names;
  const ComponentTensors declared(engine_, Category::kActivations, token, &names);
  const tn_target target = target_of(coded->what);
  check(codec_.activation ? codec_.activation->token(codec_.self, &coded->what, declared.sink()) : codec_.api->plan(codec_.self, &target, declared.sink()),
        "planning a coded activation");
  const tn_rng rng = turn_key(seed_, coded->what.slot, kSaveStream, tag.step, tag.micro_batch);
  if (!save(coded->what, x.reshaped({rows, coded->what.channels}), token, rng)) return hand_on(next_, tag, std::move(x));
  x = Tensor();
  for (size_t i = 0; i < token.size(); ++i) {
    SavedTag part = tag;
    part.name = names[i].c_str();
    coded->parts.push_back(hand_on(next_, part, std::move(token[i])));
  }
  return coded;
}

// False: the tensor holds NaN or Inf, so its step is lost and it waits as it is.
bool ActivationCodec::save(const tn_activation& what, const Tensor& x, const std::vector<Tensor>& token, const tn_rng& rng) {
  const Views views(token);
  tn_estimate e{sizeof(tn_estimate)};
  bool finite = true;
  const auto tolerant = [&](int32_t status) {
    finite = status != TN_E_NUMERIC;
    return finite ? status : int32_t{TN_OK};
  };
  if (codec_.activation) {
    check(codec_.activation->estimate(codec_.self, engine_.api(), engine_.device(), &what, TN_QUANTIZER_ENCODE, &e), "planning to code an activation");
    const Views statistics(statistics_[what.slot]);
    engine_.with_workspace(e, "save activation", [&](const tn_exec* exec) {
      return tolerant(codec_.activation->save(codec_.self, exec, &what, x.ref(), statistics.data(), views.data(), &rng));
    });
    return finite;
  }
  const tn_target target = target_of(what);
  check(codec_.api->estimate(codec_.self, engine_.api(), engine_.device(), &target, TN_QUANTIZER_ENCODE, x.count(), &e), "planning to code an activation");
  engine_.with_workspace(e, "save activation",
                         [&](const tn_exec* exec) { return tolerant(codec_.api->encode(codec_.self, exec, &target, x.ref(), views.data(), &rng)); });
  return finite;
}

void ActivationCodec::restore(const tn_activation& what, const std::vector<Tensor>& token, const Tensor& x) const {
  const Views views(token);
  tn_estimate e{sizeof(tn_estimate)};
  if (codec_.activation) {
    check(codec_.activation->estimate(codec_.self, engine_.api(), engine_.device(), &what, TN_QUANTIZER_DECODE, &e), "planning to restore an activation");
    return engine_.with_workspace(e, "restore activation",
                                  [&](const tn_exec* exec) { return codec_.activation->restore(codec_.self, exec, &what, views.data(), x.ref()); });
  }
  const tn_target target = target_of(what);
  check(codec_.api->estimate(codec_.self, engine_.api(), engine_.device(), &target, TN_QUANTIZER_DECODE, x.count(), &e), "planning to restore an activation");
  engine_.with_workspace(e, "restore activation", [&](const tn_exec* exec) {
    return codec_.api->decode(codec_.self, exec, &target, views.data(), 0, x.count(), x.ref());
  });
}

}  // namespace tenon::trainer
