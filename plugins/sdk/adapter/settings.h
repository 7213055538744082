// Hyper-parameters of an adapter whose adapter_config.json holds them under the names of the schema: from the command line, or from
// the file, whose keys win. For methods that PEFT stores in a form of its own, see lora_config.h.
#pragma once

#include <map>
#include <span>

#include "sdk/adapter/selection.h"

namespace tenon::sdk {

class Settings {
 public:
  // config_json null: the hypers alone. Values of the file are held to the schema; a foreign peft_type is refused.
  Settings(const tn_host* host, const Hypers& hypers, std::span<const tn_hyper_info* const> schema, const char* config_json,
           const char* peft_type);

  int64_t integer(const std::string& name) const { return static_cast<int64_t>(real(name)); }
  double real(const std::string& name) const { return numbers_.at(name); }
  bool flag(const std::string& name) const { return numbers_.at(name) != 0; }
  const std::string& text(const std::string& name) const { return texts_.at(name); }

  Selection selection;  // where the schema has target_modules
  // adapter_config.json.
  std::string json() const;
  void write(const tn_sink& sink) const {
    const std::string text = json();
    check(sink.write(sink.self, text.data(), text.size()));
  }

 private:
  std::span<const tn_hyper_info* const> schema_;
  std::string peft_type_;
  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
};

}  // namespace tenon::sdk
