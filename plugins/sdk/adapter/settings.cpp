#include "sdk/adapter/settings.h"

#include "sdk/adapter/peft_json.h"

namespace tenon::sdk {
namespace {

using namespace peft;

bool selects(const tn_hyper_info& h) {
  return std::string_view(h.name) == "target_modules" || std::string_view(h.name) == "exclude_modules";
}

double number_from(const tn_hyper_info& h, const Json& v) {
  if (h.type == TN_TYPE_INT) return static_cast<double>(whole(h.name, v, static_cast<int64_t>(std::max(h.min, -9e15)), static_cast<int64_t>(std::min(h.max, 9e15))));
  const double x = v.is_number() ? v.get<double>() : std::nan("");
  const bool low = (h.flags & TN_RANGE_OPEN_MIN) ? x > h.min : x >= h.min, high = (h.flags & TN_RANGE_OPEN_MAX) ? x < h.max : x <= h.max;
  if (!(low && high)) wrong(h.name, v, "a number " + std::string((h.flags & TN_RANGE_OPEN_MIN) ? "above " : "from ") + shown(number(h.min)) + ((h.flags & TN_RANGE_OPEN_MAX) ? " to below " : " to ") + shown(number(h.max)));
  return x;
}

std::string choice_from(const tn_hyper_info& h, const Json& v) {
  if (!v.is_string()) wrong(h.name, v, h.type == TN_TYPE_CHOICE ? std::string("one of ") + h.choices : "a text");
  const std::string s = v.get<std::string>();
  if (h.type == TN_TYPE_CHOICE && ("|" + std::string(h.choices) + "|").find("|" + s + "|") == std::string::npos)
    wrong(h.name, v, std::string("one of ") + h.choices);
  return s;
}

}  // namespace

Settings::Settings(const tn_host* host, const Hypers& hypers, std::span<const tn_hyper_info* const> schema, const char* config_json,
                   const char* peft_type)
    : schema_(schema), peft_type_(peft_type) {
  const Json j = config_json ? parse(config_json, peft_type) : Json();
  std::vector<std::string> names;
  for (const tn_hyper_info* h : schema) {
    names.push_back(h->name);
    if (selects(*h)) {
      if (std::string_view(h->name) == "target_modules") selection = config_json ? read_selection(j) : selection_from(hypers);
      continue;
    }
    const Json* v = config_json ? find(j, h->name) : nullptr;
    switch (h->type) {
      case TN_TYPE_INT: numbers_[h->name] = v ? number_from(*h, *v) : static_cast<double>(hypers.integer(h->name)); break;
      case TN_TYPE_FLOAT: numbers_[h->name] = v ? number_from(*h, *v) : hypers.real(h->name); break;
      case TN_TYPE_BOOL: numbers_[h->name] = v ? flag_of(j, h->name) : hypers.flag(h->name); break;
      default: texts_[h->name] = v ? choice_from(*h, *v) : std::string(hypers.text(h->name));
    }
  }
  if (config_json) warn_of_unknown_keys(j, host, names);
}

std::string Settings::json() const {
  Json j;
  j["peft_type"] = peft_type_, j["base_model_name_or_path"] = nullptr, j["inference_mode"] = true;
  j["modules_to_save"] = nullptr, j["revision"] = nullptr, j["task_type"] = "CAUSAL_LM";
  for (const tn_hyper_info* h : schema_) {
    if (std::string_view(h->name) == "target_modules") write_selection(j, selection);
    if (selects(*h)) continue;
    if (h->type == TN_TYPE_BOOL)
      j[h->name] = flag(h->name);
    else if (h->type == TN_TYPE_INT || h->type == TN_TYPE_FLOAT)
      j[h->name] = number(real(h->name));
    else
      j[h->name] = text(h->name);
  }
  return text_of(j);
}

}  // namespace tenon::sdk
