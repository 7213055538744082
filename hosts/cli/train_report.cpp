#include "hosts/cli/train_report.h"

#include <sys/resource.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"

namespace tenon::cli {

namespace fs = std::filesystem;

uint64_t process_peak_bytes() {
  rusage use{};
  return getrusage(RUSAGE_SELF, &use) == 0 ? static_cast<uint64_t>(use.ru_maxrss) * 1024 : 0;
}

TrainReport::TrainReport(const po::variables_map& values, const std::vector<std::string>& arguments, const trainer::Runtime& runtime,
                         const trainer::ModelSource& source) {
  data_.model = fs::path(source.path()).filename().string();
  data_.title = "Training " + data_.model;
  data_.data = fs::path(values["data"].as<std::string>()).filename().string();
  data_.device = runtime.device_info().name + std::string(" (") + runtime.device_info().runtime + ")";
  data_.command_line = "tenon train";
  for (const std::string& a : arguments) data_.command_line += " " + (a.find(' ') == std::string::npos ? a : "'" + a + "'");
  const std::pair<const char*, uint32_t> kinds[] = {
      {"optimizer", TN_KIND_OPTIMIZER}, {"adapter", TN_KIND_ADAPTER}, {"quantizer", TN_KIND_QUANTIZER}, {"attention", TN_KIND_ATTENTION}};
  for (const auto& [name, kind] : kinds)
    if (const std::string spec = runtime.short_spec(kind); !spec.empty()) data_.mix.emplace_back(name, spec);
  for (const char* flag : {"dtype", "batch-size", "seq-len", "accumulate", "lr", "schedule", "warmup", "clip", "seed", "weight-update"})
    data_.settings.emplace_back(flag, values[flag].as<std::string>());
  for (const char* flag : {"grad-checkpoint", "tiled-mlp", "fused-backward", "isolate-documents"})
    if (values.count(flag)) data_.settings.emplace_back(flag, "on");
}

void TrainReport::set_parameters(int64_t total, int64_t trainable) { data_.total_parameters = total, data_.trainable_parameters = trainable; }

void TrainReport::add_step(const trainer::StepResult& r, double tokens_per_second) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  data_.steps.push_back({r.step, r.loss, r.lr, r.grad_norm, tokens_per_second, seconds, r.skipped});
}

void TrainReport::add_evaluation(const trainer::EvaluationPoint& p) { data_.evaluations.push_back({p.step, p.value.loss, p.value.perplexity}); }

std::string TrainReport::write(const std::string& output, const trainer::TrainResult& result) {
  for (int c = 0; c < kCategories; ++c)
    if (result.planned.at_peak[c] > 0 || result.measured.at_peak[c] > 0)
      data_.memory.push_back({category_name(static_cast<Category>(c)), result.planned.at_peak[c], result.measured.at_peak[c]});
  data_.planned_total = result.planned.total_peak, data_.peak_total = result.measured.total_peak, data_.process_peak = process_peak_bytes();
  const std::string path = (fs::path(output) / "report.html").string();
  write_file_atomically(path, trainer::html_report(data_));
  return path;
}

nlohmann::json TrainReport::samples_json() const {
  nlohmann::json j = nlohmann::json::array();
  for (const auto& s : data_.samples) j.push_back({{"label", s.label}, {"prompt", s.prompt}, {"text", s.text}});
  return j;
}

void TrainReport::print_samples() const {
  for (const auto& s : data_.samples) {
    std::string text = s.prompt + s.text;  // indented under its label
    for (size_t i = 0; (i = text.find('\n', i)) != std::string::npos; i += 14) text.insert(i + 1, 13, ' ');
    std::printf("%-12s %s\n", s.label.c_str(), text.c_str());
  }
}

}  // namespace tenon::cli
