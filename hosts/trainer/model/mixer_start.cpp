// Where a mixer's parameters come from: the model's files, or, where these were made without it, the model's other weights.
#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/model/source.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kStartStream = 0x4D495845;  // random stream of mixers' starting values

}  // namespace

bool ModelSource::holds(const std::string& name) const {
  return safetensors_ && (safetensors_->find(name) || (name.starts_with("model.") && safetensors_->find(name.substr(6))));
}

void ModelSource::start_mixers(Engine& engine, Model& model, const WeightDecoder& decoder, uint64_t seed) const {
  const std::vector<const SublayerMixer*> mixers = model.mixers();
  const std::vector<Linear*> sites = model.sites();
  for (size_t l = 0; l < mixers.size(); ++l) {
    const SublayerMixer& mixer = *mixers[l];
    size_t wanted = 0, held = 0;
    std::string missing;
    for (const Parameter* p : mixer.parameters) {
      if (!p->saved) continue;
      ++wanted;
      if (holds(p->name))
        ++held;
      else if (missing.empty())
        missing = p->name;
    }
    if (held > 0 && held < wanted)
      throw Error(TN_E_FORMAT, path_ + ": tensor " + quote_name(missing) + " is missing beside others of its layer; the model was made with another --attention");
    for (const Parameter* p : mixer.parameters)
      if (held > 0 && p->saved) load_one(engine, p->name, p->uid, p->role, p->value, decoder, seed);
    Tensor weight;  // of the linear that is being read
    uint32_t read = TN_ROLE_UNDEFINED;
    const auto read_rows = [&](uint32_t role, int64_t begin, int64_t end, const Tensor& out) {
      if (role < TN_ROLE_Q || role > TN_ROLE_O) throw Error(TN_E_ARGUMENT, "a mixer can read the weights of q, k, v and o of its layer, and no others");
      const Linear& linear = *sites.at(l * 7 + role - TN_ROLE_Q);
      if (read != role) {
        weight = Tensor();
        weight = dense_weight(engine, linear, decoder, seed), read = role;
      }
      engine.axpby(1, weight.rows(begin, end), 0, out);
    };
    const uint32_t uid = mixer.parameters.empty() ? 0 : mixer.parameters[0]->uid;
    mixer.start(engine, {seed, uid, kStartStream}, held > 0, read_rows);
  }
  engine.synchronize();
}

}  // namespace tenon::trainer
