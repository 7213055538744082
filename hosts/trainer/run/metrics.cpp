#include "hosts/trainer/run/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/atomic_file.h"

namespace tenon::trainer {
namespace {

[[noreturn]] void cannot_write(const std::string& path) {
  throw Error(TN_E_IO, path + ": cannot be written: " + std::strerror(errno) + "; free space or choose another --output");
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, int64_t after) : path_(path) {
  std::string text;
  if (after > 0) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      nlohmann::json j = nlohmann::json::parse(line, nullptr, false);  // a killed writer leaves a broken last line
      if (!j.is_object() || !j.contains("step") || !j["step"].is_number_integer() || j["step"].get<int64_t>() > after) continue;
      text += line + "\n";
      kept_.push_back(std::move(j));
    }
  }
  write_file_atomically(path, text);
  file_.reset(std::fopen(path.c_str(), "ab"));
  if (!file_) cannot_write(path);
}

void MetricsFile::append(const nlohmann::json& line) {
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0) cannot_write(path_);
}

void MetricsFile::sync() {
  if (fsync(fileno(file_.get())) != 0) cannot_write(path_);
}

}  // namespace tenon::trainer
