// What a plugin that runs a whole mixer or stack is given for a pass: its parameters, and the tensors that it allocates. All fenced.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "hosts/conformance/memory.h"
#include "tenon/adapter.h"

namespace tenon::conformance {

// In f32. Until it is set the value is NaN; the gradient begins at zero.
struct Parameter {
  std::string key;
  bool trains;
  std::unique_ptr<Tensor> value, grad;
};

class Parameters {
 public:
  explicit Parameters(Bench& bench) : bench_(bench) {}

  // Adds one as the plugin declares it: what is wrong with it, or "".
  std::string declare(uint32_t id, const char* key, int32_t ndim, const int64_t* shape, bool trains);
  // Moves what trains by normal numbers of this size, since a parameter that starts at zero hides what stands behind it.
  void displace(double size, uint32_t stream);
  // As a call passes them, by id; those that do not train without a gradient.
  const tn_param_view* const* views() const { return pointers_.data(); }

  size_t size() const { return all_.size(); }
  Parameter& operator[](size_t id) { return all_[id]; }
  auto begin() { return all_.begin(); }
  auto end() { return all_.end(); }

 private:
  Bench& bench_;
  std::vector<Parameter> all_;
  std::list<tn_param_view> views_;
  std::vector<const tn_param_view*> pointers_;
};

// Tensors that the plugin has allocated and not yet freed.
class Loans {
 public:
  // planned: without memory. Else every byte is `poison`. Null where the shape is impossible.
  tn_tensor* lend(Bench& bench, int32_t ndim, const int64_t* shape, const tn_dtype& dtype, bool planned, uint8_t poison);
  // False where it is none of these.
  bool take_back(const tn_tensor* tensor);
  void clear() { all_.clear(); }

 private:
  struct Loan {
    std::unique_ptr<Tensor> memory;
    std::vector<int64_t> shape, strides;
    tn_tensor view;
  };
  std::list<Loan> all_;
};

}  // namespace tenon::conformance
