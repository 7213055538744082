#include "hosts/conformance/region_run.h"

#include <algorithm>
#include <cmath>

#include "hosts/conformance/check.h"
#include "sdk/tensor.h"
#include "tenon/ops.h"

namespace tenon::conformance {
namespace {

using Values = std::vector<double>;

// [rows, k] · [k, n]; turned: · [n, k]ᵀ.
Values product(const Values& a, const Values& b, int64_t k, int64_t n, bool turned) {
  const int64_t rows = static_cast<int64_t>(a.size()) / k;
  Values c(static_cast<size_t>(rows * n));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t p = 0; p < k; ++p) c[i * n + j] += a[i * k + p] * (turned ? b[j * k + p] : b[p * n + j]);
  return c;
}
Values half(const Values& x, const Values& w) {
  Values y = product(x, w, RegionRun::kHidden, RegionRun::kHidden, false);
  for (size_t i = 0; i < y.size(); ++i) y[i] = x[i] + std::tanh(y[i]) / 2;
  return y;
}
Values half_backward(const Values& x, const Values& w, const Values& d) {
  Values u = product(x, w, RegionRun::kHidden, RegionRun::kHidden, false);
  for (size_t i = 0; i < u.size(); ++i) u[i] = d[i] * (1 - std::tanh(u[i]) * std::tanh(u[i])) / 2;
  Values dx = product(u, w, RegionRun::kHidden, RegionRun::kHidden, true);
  for (size_t i = 0; i < dx.size(); ++i) dx[i] += d[i];
  return dx;
}

}  // namespace

// The functions that the plugin calls; nothing here throws.
struct RegionRun::Table {
  static RegionRun& of(void* self) { return *static_cast<RegionRun*>(self); }
  static bool plans(void* self) { return of(self).flags_ & TN_REGION_PLAN; }
  static int32_t wrong(void* self, std::string fault, int32_t status = TN_E_ARGUMENT) {
    of(self).fault_ = std::move(fault);
    return status;
  }

  static int32_t param(void* self, const tn_adapter_param* p) {
    RegionRun& r = of(self);
    r.fault_ = r.parameters_.declare(p->id, p->file_key, p->ndim, p->shape, p->flags & TN_ADAPTER_PARAM_TRAINABLE);
    return r.fault_.empty() ? int32_t{TN_OK} : int32_t{TN_E_ARGUMENT};
  }
  static int32_t block(void* self, const tn_side_block* b, uint32_t* id) {
    RegionRun& r = of(self);
    if (!b->key || b->like >= kBlocks || b->hidden < 1 || b->intermediate < 1 || b->heads < 1 || b->kv_heads < 1 || b->heads % b->kv_heads || b->head_dim < 2 || b->head_dim % 2)
      return wrong(self, "it asks for a block that cannot be");
    const int64_t q = int64_t{b->heads} * b->head_dim, kv = int64_t{b->kv_heads} * b->head_dim;
    const int64_t shapes[9][2] = {{b->hidden, 0}, {b->hidden, 0}, {q, b->hidden}, {kv, b->hidden}, {kv, b->hidden}, {b->hidden, q}, {b->intermediate, b->hidden}, {b->intermediate, b->hidden}, {b->hidden, b->intermediate}};
    const char* names[9] = {"input_norm", "post_attention_norm", "q", "k", "v", "o", "gate", "up", "down"};
    *id = static_cast<uint32_t>(kBlocks + static_cast<int64_t>(r.sides_.size()));
    const auto first = static_cast<uint32_t>(r.parameters_.size());
    r.sides_.push_back({first + 2, first + 5, b->hidden});
    for (int k = 0; k < 9; ++k) {
      const std::string key = std::string(b->key) + "." + names[k];
      const tn_adapter_param p{sizeof p, static_cast<uint32_t>(r.parameters_.size()), -1, TN_ADAPTER_PARAM_TRAINABLE, shapes[k][1] ? 2 : 1, 0, {shapes[k][0], shapes[k][1], 0, 0}, 1, 1, key.c_str()};
      if (const int32_t status = param(self, &p); status < 0) return status;
      if (b->like >= 0) r.originals_[p.id] = {b->like, k - 2};
    }
    return TN_OK;
  }

  static int32_t rows_of(void* self, Tensor& w, int64_t begin, int64_t end, tn_tensor* out) {
    RegionRun& r = of(self);
    if (!r.starting_) return wrong(self, "it reads a weight after it has its starting values", TN_E_STATE);
    const int32_t status = copy_rows(r.bench_, w, begin, end, *out);
    return status == TN_E_ARGUMENT ? wrong(self, "it reads rows that a weight has not") : status;
  }
  static int32_t read_rows(void* self, int32_t block, uint32_t slot, int64_t begin, int64_t end, tn_tensor* out) {
    if (block < -1 || block >= kBlocks || slot > 6) return wrong(self, "it reads a weight that the model has not");
    RegionRun& r = of(self);
    return rows_of(self, block < 0 ? *r.weights_.back() : *r.weights_[static_cast<size_t>(7 * block) + slot], begin, end, out);
  }
  // The base of one parameter's start.
  struct Base {
    RegionRun* run;
    Tensor* weight;
    static int32_t rows(void* self, int64_t begin, int64_t end, tn_tensor* out) {
      return rows_of(static_cast<Base*>(self)->run, *static_cast<Base*>(self)->weight, begin, end, out);
    }
  };

  static int32_t alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) { return of(self).lend(ndim, shape, dtype, out); }
  static void free(void* self, tn_tensor* tensor) {
    RegionRun& r = of(self);
    for (auto& [token, kept] : r.kept_)
      if (kept.tensor == tensor) kept.tensor = nullptr;  // a host counts references
    if (!r.lent_.take_back(tensor)) r.fault_ = "it frees a tensor that it does not hold";
  }
  static int32_t gemm(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    return plans(self) ? int32_t{TN_OK} : multiply(of(self).bench_, *a, *b, alpha, beta, *c);
  }
  static int32_t axpby(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    return plans(self) ? int32_t{TN_OK} : conformance::axpby(of(self).bench_, alpha, *x, beta, *y);
  }
  static int32_t norm(void* self, const tn_tensor* x, const tn_tensor* gain, tn_tensor* y, tn_tensor* rstd) {
    if (plans(self)) return TN_OK;
    RegionRun& r = of(self);
    const int64_t n = x->shape[1];
    Values v = read(r.bench_, *x), scales(static_cast<size_t>(x->shape[0]));
    const Values gains = gain ? read(r.bench_, *gain) : Values(static_cast<size_t>(n), 1);
    for (size_t t = 0; t < scales.size(); ++t) {
      double squares = 1e-6 * static_cast<double>(n);
      for (int64_t j = 0; j < n; ++j) squares += v[t * n + j] * v[t * n + j];
      scales[t] = 1 / std::sqrt(squares / static_cast<double>(n));
      for (int64_t j = 0; j < n; ++j) v[t * n + j] *= scales[t] * gains[j];
    }
    if (rstd) write(r.bench_, *rstd, scales);
    return write(r.bench_, *y, v);
  }
  static int32_t norm_backward(void* self, const tn_tensor* dy, const tn_tensor* x, const tn_tensor* gain, const tn_tensor* rstd, double beta, tn_tensor* dx, tn_tensor* dgain) {
    if (plans(self)) return TN_OK;
    RegionRun& r = of(self);
    const int64_t n = x->shape[1];
    const Values v = read(r.bench_, *x), d = read(r.bench_, *dy), scales = read(r.bench_, *rstd), gains = gain ? read(r.bench_, *gain) : Values(static_cast<size_t>(n), 1);
    Values out = beta != 0 ? read(r.bench_, *dx) : Values(v.size()), sums = dgain ? read(r.bench_, *dgain) : Values();
    for (size_t t = 0; t < scales.size(); ++t) {
      double dot = 0;
      for (int64_t j = 0; j < n; ++j) dot += d[t * n + j] * gains[j] * v[t * n + j];
      for (int64_t j = 0; j < n; ++j) {
        const size_t i = t * n + j;
        if (dgain) sums[j] += d[i] * v[i] * scales[t];
        out[i] = beta * out[i] + scales[t] * (d[i] * gains[j] - v[i] * scales[t] * scales[t] * dot / static_cast<double>(n));
      }
    }
    if (dgain) write(r.bench_, *dgain, sums);
    return write(r.bench_, *dx, out);
  }

  static int32_t block_forward(void* self, uint32_t block, uint32_t part, const tn_tensor* x, tn_tensor** y, uint64_t* token) {
    RegionRun& r = of(self);
    if (block >= kBlocks + r.sides_.size() || part < TN_BLOCK_WHOLE || part > TN_BLOCK_MLP) return wrong(self, "it calls a block that does not exist");
    const bool own = block >= kBlocks;
    const int64_t width = own ? r.sides_[block - kBlocks].hidden : kHidden;
    if (own && part != TN_BLOCK_WHOLE) return wrong(self, "it calls a half of a block of its own, which here is one");
    if (x->ndim != 2 || x->shape[0] != r.rows_ || x->shape[1] != width) return wrong(self, "it gives a block an input of another shape than [rows, width]");
    if (token && !(r.flags_ & TN_REGION_SAVE)) return wrong(self, "it keeps a block for a backward that does not follow");
    Values v = plans(self) ? Values() : read(r.bench_, *x);
    if (token) r.kept_[*token = ++r.next_] = {block, part, v, x};
    const int64_t shape[] = {r.rows_, width};
    if (const int32_t status = r.lend(2, shape, &sdk::kF32, y); status < 0 || plans(self)) return status;
    if (own) {
      const Side& s = r.sides_[block - kBlocks];
      const Values q = read(r.bench_, *r.parameters_[s.q].value->get()), o = read(r.bench_, *r.parameters_[s.o].value->get());
      Values u = product(v, q, width, static_cast<int64_t>(q.size()) / width, true);
      for (double& e : u) e = std::tanh(e);
      const Values added = product(u, o, static_cast<int64_t>(o.size()) / width, width, true);
      for (size_t i = 0; i < v.size(); ++i) v[i] += added[i];
    } else {
      if (part != TN_BLOCK_MLP) v = half(v, r.halves_[2 * block]);
      if (part != TN_BLOCK_ATTENTION) v = half(v, r.halves_[2 * block + 1]);
    }
    return write(r.bench_, **y, v);
  }
  static int32_t block_backward(void* self, uint64_t token, tn_tensor* d) {
    RegionRun& r = of(self);
    const auto found = r.kept_.find(token);
    if (found == r.kept_.end()) return wrong(self, "it runs a block backward that it has not run forward", TN_E_STATE);
    const Kept kept = std::move(found->second);
    r.kept_.erase(found);
    if (plans(self)) return TN_OK;
    if (kept.tensor && read(r.bench_, *kept.tensor) != kept.x) return wrong(self, "it changes the input of a block that is kept for backward", TN_E_STATE);
    Values g = read(r.bench_, *d);
    if (kept.block < kBlocks) {
      const Values &first = r.halves_[2 * kept.block], &second = r.halves_[2 * kept.block + 1];
      if (kept.part != TN_BLOCK_ATTENTION) g = half_backward(kept.part == TN_BLOCK_MLP ? kept.x : half(kept.x, first), second, g);
      if (kept.part != TN_BLOCK_MLP) g = half_backward(kept.x, first, g);
      return write(r.bench_, *d, g);
    }
    const Side& s = r.sides_[kept.block - kBlocks];
    Parameter &pq = r.parameters_[s.q], &po = r.parameters_[s.o];
    const Values q = read(r.bench_, *pq.value->get()), o = read(r.bench_, *po.value->get());
    const int64_t width = s.hidden, inner = static_cast<int64_t>(q.size()) / width;
    Values u = product(kept.x, q, width, inner, true);
    for (double& e : u) e = std::tanh(e);
    Values du = product(g, o, width, inner, false), dq = read(r.bench_, *pq.grad->get()), d_o = read(r.bench_, *po.grad->get());
    for (size_t i = 0; i < u.size(); ++i) du[i] *= 1 - u[i] * u[i];
    for (int64_t t = 0; t < r.rows_; ++t)
      for (int64_t i = 0; i < inner; ++i)
        for (int64_t j = 0; j < width; ++j) dq[i * width + j] += du[t * inner + i] * kept.x[t * width + j], d_o[j * inner + i] += g[t * width + j] * u[t * inner + i];
    write(r.bench_, *pq.grad->get(), dq), write(r.bench_, *po.grad->get(), d_o);
    const Values dx = product(du, q, inner, width, false);
    for (size_t i = 0; i < g.size(); ++i) g[i] += dx[i];
    return write(r.bench_, *d, g);
  }
};

int32_t RegionRun::lend(int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
  *out = lent_.lend(bench_, ndim, shape, *dtype, flags_ & TN_REGION_PLAN, poison_);
  if (!*out) return fault_ = "it asks for a tensor of an impossible shape", TN_E_ARGUMENT;
  return sizes_.push_back((static_cast<uint64_t>(sdk::count(**out)) * dtype->bits + 7) / 8), TN_OK;
}

RegionRun::RegionRun(Subject& subject, const Spec& spec) : bench_(subject.bench()), api_(subject.api<tn_adapter_api>()) {
  region_ = subject.plugin().extension<tn_region_api>(TN_EXT_REGION);
  if (!region_) throw NotApplicable{"it does not run the stack of blocks"};
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_adapter_api, tn_adapter>>(api_, spec, status, static_cast<const char*>(nullptr));
  if (status < 0) refused(status, "create");
  const auto weight = [&](int64_t m, int64_t n) {
    weights_.push_back(std::make_unique<Tensor>(bench_, "a weight of the model", sdk::kF32, std::vector<int64_t>{m, n}, normals(m * n, static_cast<uint32_t>(weights_.size()), 0.15f)));
    weights_.back()->seal();
  };
  const int64_t q = kHeads * kWidth, kv = kKvHeads * kWidth;
  for (int64_t b = 0; b < kBlocks; ++b)
    weight(q, kHidden), weight(kv, kHidden), weight(kv, kHidden), weight(kHidden, q), weight(kMlp, kHidden), weight(kMlp, kHidden), weight(kHidden, kMlp);
  weight(kVocab, kHidden);
  for (uint32_t h = 0; h < 2 * kBlocks; ++h) {
    const std::vector<float> w = normals(kHidden * kHidden, 200 + h, 0.125f);
    halves_.emplace_back(w.begin(), w.end());
  }
  const tn_region_model model{TN_SIZE_TO(tn_region_model, read_rows), kBlocks, kHidden, kMlp, kHeads, kKvHeads, kWidth, 0, kVocab, this, Table::read_rows};
  const tn_region_sink sink{TN_SIZE_TO(tn_region_sink, block), 0, this, Table::param, Table::block};
  status = region_->bind(instance_->get(), &model, &sink);
  expect(fault_.empty(), fault_);
  if (status < 0) refused(status, "bind");
  start();
}

void RegionRun::start() {
  starting_ = true;
  Tensor gain(bench_, "a gain of the model", sdk::kF32, {1, kHidden}, normals(kHidden, 300));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    const auto original = originals_.find(static_cast<uint32_t>(i));
    const bool found = original != originals_.end();
    Table::Base base{this, found && original->second.slot >= 0 ? weights_[static_cast<size_t>(7 * original->second.block + original->second.slot)].get() : &gain};
    tn_base_linear table{};
    table.struct_size = TN_SIZE_TO(tn_base_linear, bias), table.self = &base, table.m = base.weight->shape()[0], table.n = base.weight->shape()[1], table.read_rows = Table::Base::rows;
    const tn_rng rng{7, static_cast<uint32_t>(i), 3};
    const Exec exec(bench_, 256 << 10);
    must(api_.init_param(instance_->get(), exec.get(), static_cast<uint32_t>(i), found ? &table : nullptr, &rng, p.value->get()), "init_param of " + p.key);
    expect(fault_.empty(), fault_);
    bench_.expect_intact("init_param");
    expect(all_finite(p.value->floats()), "init_param leaves parameter " + p.key + " without values");
  }
  starting_ = false;
  parameters_.displace(0.1, 400);
}

void RegionRun::clear_gradients() {
  for (Parameter& p : parameters_) p.grad->fill(0);
}

int32_t RegionRun::run(const Pass& pass, uint32_t flags, const std::string& doing, const std::function<int32_t(const tn_region_ops*)>& body) {
  flags_ = flags, rows_ = pass.rows, poison_ = pass.poison;
  for (Parameter& p : parameters_) p.value->seal();
  const Exec exec(bench_, 0);
  Longer<tn_region_ops> ops;
  ops.value = {0, flags, this, exec.get(), parameters_.views(), parameters_.size(), pass.rows, kHidden, sdk::kF32, Table::alloc, Table::free, Table::gemm, Table::axpby, Table::norm,
               Table::norm_backward, Table::block_forward, Table::block_backward, {11, 5 << 16, pass.stream}};
  const int32_t status = body(ops.get(TN_SIZE_TO(tn_region_ops, rng), pass.longer));
  bench_.wait();
  expect(fault_.empty(), fault_);
  bench_.expect_intact(doing);
  for (Parameter& p : parameters_) p.value->unseal();
  return status;
}

std::vector<float> RegionRun::forward(const Pass& pass, const std::vector<float>& x, bool save) {
  Tensor tx(bench_, "x", sdk::kF32, {pass.rows, kHidden}, x), y(bench_, "y", sdk::kF32, {pass.rows, kHidden});
  tx.seal(), y.fill(pass.poison);
  lent_.clear(), kept_.clear();
  must(run(pass, save ? TN_REGION_SAVE : 0, "forward", [&](const tn_region_ops* ops) { return region_->forward(instance_->get(), ops, tx.get(), y.get()); }), "forward");
  for (auto& [token, kept] : kept_)
    if (kept.tensor == tx.get()) kept.tensor = nullptr;
  if (!save) lent_.clear();
  return y.floats();
}

int32_t RegionRun::back(const Pass& pass, tn_tensor* dy, tn_tensor* dx, uint32_t flags) {
  const int32_t status = run(pass, flags, "backward", [&](const tn_region_ops* ops) { return region_->backward(instance_->get(), ops, dy, dx); });
  if (status >= 0) expect(kept_.empty(), "blocks are kept for backward and never run backward");
  lent_.clear(), kept_.clear();
  return status;
}

std::vector<float> RegionRun::backward(const Pass& pass, const std::vector<float>& dy, bool wanted) {
  Tensor td(bench_, "dy", sdk::kF32, {pass.rows, kHidden}, dy), dx(bench_, "dx", sdk::kF32, {pass.rows, kHidden});
  td.seal(), dx.fill(pass.poison);
  if (!accepted(back(pass, td.get(), wanted ? dx.get() : nullptr, TN_REGION_SAVE), "backward")) return {};
  return wanted ? dx.floats() : std::vector<float>();
}

bool RegionRun::gives_dx() {
  const std::vector<float> x = normals(kHidden, 5);
  forward({1}, x);
  const bool gives = !backward({1}, x, true).empty();
  clear_gradients();
  return gives;
}

std::vector<uint64_t> RegionRun::allocations(const Pass& pass, bool trains, bool planned) {
  const std::vector<float> x = normals(pass.rows * kHidden, 5);
  sizes_.clear();
  if (!planned) {
    forward(pass, x, trains);
    if (trains) backward(pass, x, false);
    return sizes_;
  }
  lent_.clear(), kept_.clear();
  int64_t shape[2] = {pass.rows, kHidden}, strides[2] = {kHidden, 1};
  tn_tensor a{nullptr, bench_.id, 2, sdk::kF32, shape, strides, 0}, b = a;
  const uint32_t flags = TN_REGION_PLAN | (trains ? uint32_t{TN_REGION_SAVE} : 0u);
  must(run(pass, flags, "forward of the forecast", [&](const tn_region_ops* ops) { return region_->forward(instance_->get(), ops, &a, &b); }), "forward of the forecast");
  if (trains) must(back(pass, &a, nullptr, flags), "backward of the forecast");
  return sizes_;
}

}  // namespace tenon::conformance
