// Adapter arithmetic in PEFT's words (add_weighted_adapter): the result's delta is the weighted sum of the sources' deltas.
//   linear  factors are summed, each with the root of weight · scale: of equal ranks, and only near the sum
//   cat     factors are stacked: exact, of the sum of the ranks
//   svd     the nearest delta of a chosen rank
#include "combine.h"

#include <cmath>
#include <map>
#include <set>

#include "sdk/adapter/lora_config.h"
#include "sdk/adapter/targets.h"
#include "sdk/tensor.h"
#include "truncate.h"

namespace tenon::lora {
namespace {

using sdk::fail;
using Put = int32_t (*)(void*, const char*, const tn_tensor*);

struct Names {
  const char *down, *up;  // ends of the keys of A and B
};
constexpr Names kLinear{".lora_A.weight", ".lora_B.weight"}, kEmbedding{".lora_embedding_A", ".lora_embedding_B"};
constexpr const char kPrefix[] = "base_model.model.";

class Source {
 public:
  Source(const tn_combine_source& s, const tn_host* host) : config_(sdk::lora_config_from(s.config_json, host, false)), targets_(config_.selection), weight_(s.weight) {
    if (!config_.modules_to_save.empty()) fail(TN_E_UNSUPPORTED, "an adapter with modules_to_save holds whole weights, which cannot be summed like factors; merge it instead");
    if (!std::isfinite(weight_)) fail(TN_E_ARGUMENT, "the weight of an adapter is not a finite number");
    for (uint64_t i = 0; i < s.n_tensors; ++i) tensors_[s.keys[i]] = s.tensors[i];
    for (const auto& [key, tensor] : tensors_) {
      if (key.ends_with(".lora_B.bias")) fail(TN_E_UNSUPPORTED, key + ": adapters with lora_bias cannot be combined");
      for (const Names& n : {kLinear, kEmbedding})
        if (key.ends_with(n.down)) modules_[key.substr(0, key.size() - std::string_view(n.down).size())] = n;
    }
  }

  const std::map<std::string, Names>& modules() const { return modules_; }
  bool has(const std::string& module) const { return modules_.contains(module); }
  const sdk::LoraConfig& config() const { return config_; }

  Dense factor(const std::string& module, bool up) const {
    const Names& n = modules_.at(module);
    const std::string key = module + (up ? n.up : n.down);
    const auto it = tensors_.find(key);
    if (it == tensors_.end()) fail(TN_E_NOT_FOUND, key + ": the adapter has no such tensor; it is incomplete");
    const tn_tensor& t = *it->second;
    if (t.ndim != 2 || !sdk::is_contiguous(t)) fail(TN_E_FORMAT, key + ": a factor must be a matrix");
    Dense d(t.shape[0], t.shape[1]);
    sdk::with_float_type(t.dtype, "a LoRA factor", [&](auto tag) {
      const auto* from = sdk::data<const decltype(tag)>(t);
      for (size_t i = 0; i < d.values.size(); ++i) d.values[i] = sdk::to_float(from[i]);
    });
    return d;
  }
  // weight · scale of the delta.
  double strength(const std::string& module, int64_t rank) const {
    const std::string path = module.starts_with(kPrefix) ? module.substr(sizeof kPrefix - 1) : module;
    return weight_ * config_.scale(rank, targets_.alpha_of(path, config_.alpha));
  }

 private:
  sdk::LoraConfig config_;
  sdk::Targets targets_;
  double weight_;
  std::map<std::string, const tn_tensor*> tensors_;
  std::map<std::string, Names> modules_;
};

struct Factors {
  Dense a, b;
};

void check_fit(const std::string& module, const Factors& first, const Factors& f) {
  if (f.b.columns != f.a.rows) fail(TN_E_FORMAT, module + ": the two factors have different ranks");
  if (f.a.columns != first.a.columns || f.b.rows != first.b.rows)
    fail(TN_E_FORMAT, module + " has another size in one of the adapters; they belong to different models");
}

Factors linear(const std::string& module, const std::vector<Factors>& parts, const std::vector<double>& strengths) {
  Factors sum{Dense(parts[0].a.rows, parts[0].a.columns), Dense(parts[0].b.rows, parts[0].b.columns)};
  for (size_t k = 0; k < parts.size(); ++k) {
    if (parts[k].a.rows != sum.a.rows)
      fail(TN_E_UNSUPPORTED, module + ": the adapters have the ranks " + std::to_string(sum.a.rows) + " and " + std::to_string(parts[k].a.rows) +
                                 ", but linear adds factors of one rank; use cat or svd");
    const double root = std::sqrt(std::fabs(strengths[k])), signed_root = strengths[k] >= 0 ? root : -root;
    for (size_t i = 0; i < sum.a.values.size(); ++i) sum.a.values[i] += signed_root * parts[k].a.values[i];
    for (size_t i = 0; i < sum.b.values.size(); ++i) sum.b.values[i] += root * parts[k].b.values[i];
  }
  return sum;
}

Factors cat(const std::vector<Factors>& parts, const std::vector<double>& strengths) {
  int64_t rank = 0;
  for (const Factors& f : parts) rank += f.a.rows;
  Factors all{Dense(rank, parts[0].a.columns), Dense(parts[0].b.rows, rank)};
  int64_t at = 0;
  for (size_t k = 0; k < parts.size(); at += parts[k].a.rows, ++k) {
    for (int64_t r = 0; r < parts[k].a.rows; ++r) {
      for (int64_t j = 0; j < all.a.columns; ++j) all.a.at(at + r, j) = strengths[k] * parts[k].a.at(r, j);
      for (int64_t i = 0; i < all.b.rows; ++i) all.b.at(i, at + r) = parts[k].b.at(i, r);
    }
  }
  return all;
}

void put_matrix(void* context, Put put, const std::string& key, const Dense& d) {
  std::vector<float> values(d.values.begin(), d.values.end());
  int64_t shape[2] = {d.rows, d.columns}, strides[2] = {d.columns, 1};
  const tn_tensor t{values.data(), {TN_CPU, 0}, 2, sdk::kF32, shape, strides, 0};
  sdk::check(put(context, key.c_str(), &t));
}

void combine(const tn_host* host, const std::string& method, int64_t rank, const tn_combine_source* const* list, uint64_t n, void* context, Put put,
             const tn_sink& config) {
  if (method != "linear" && method != "cat" && method != "svd") fail(TN_E_ARGUMENT, "there is no method " + method + "; the methods are linear, cat and svd");
  if (n == 0) fail(TN_E_ARGUMENT, "there is no adapter to combine");
  if (rank < 0 || (rank > 0 && method != "svd")) fail(TN_E_ARGUMENT, "a rank goes with svd alone; the other methods have their own");
  std::vector<Source> sources;
  std::map<std::string, Names> modules;
  for (uint64_t i = 0; i < n; ++i) {
    sources.emplace_back(*list[i], host);
    modules.insert(sources.back().modules().begin(), sources.back().modules().end());
  }
  if (modules.empty()) fail(TN_E_NOT_FOUND, "the adapters hold no factors of LoRA");

  std::map<std::string, int64_t> ranks;
  for (const auto& [module, names] : modules) {
    std::vector<Factors> parts;
    std::vector<double> strengths;
    int64_t largest = 0;
    for (const Source& s : sources) {
      if (!s.has(module)) continue;
      parts.push_back({s.factor(module, false), s.factor(module, true)});
      check_fit(module, parts[0], parts.back());
      largest = std::max(largest, parts.back().a.rows);
      strengths.push_back(s.strength(module, parts.back().a.rows));
    }
    Factors result = method == "linear" ? linear(module, parts, strengths) : cat(parts, strengths);
    if (method == "svd") {
      Factors cut;
      truncate_product(result.b, result.a, std::min(rank > 0 ? rank : largest, result.a.rows), cut.b, cut.a);
      result = std::move(cut);
    }
    put_matrix(context, put, module + names.down, result.a);
    put_matrix(context, put, module + names.up, result.b);
    ranks[module.starts_with(kPrefix) ? module.substr(sizeof kPrefix - 1) : module] = result.a.rows;
  }

  // alpha = r, so that nothing scales the factors; modules by their full names.
  sdk::LoraConfig c;
  c.task_type = sources[0].config().task_type;
  c.r = 0;
  for (const auto& [path, r] : ranks) c.r = std::max(c.r, r), c.selection.targets.push_back(path);
  c.alpha = static_cast<double>(c.r);
  for (const auto& [path, r] : ranks)
    if (r != c.r) c.selection.rank_pattern.emplace_back(path, r), c.selection.alpha_pattern.emplace_back(path, static_cast<double>(r));
  const std::string text = sdk::to_json(c);
  sdk::check(config.write(config.self, text.data(), text.size()));
}

int32_t combine_thunk(const tn_host* host, const char* method, int64_t rank, const tn_combine_source* const* sources, uint64_t n, void* context, Put put,
                      const tn_sink* config) {
  return sdk::guard(host, [&] { combine(host, method, rank, sources, n, context, put, *config); });
}

constexpr const char* kMethods[] = {"linear", "cat", "svd", nullptr};

}  // namespace

const tn_combine kCombine{TN_SIZE_TO(tn_combine, combine), 0, kMethods, combine_thunk};

}  // namespace tenon::lora
