// metrics.jsonl: one line a step, so that a resumed run's file reads as if nothing had happened.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace tenon::trainer {

class MetricsFile {
 public:
  // Keeps the lines of steps up to `after` (0: none) and appends from there.
  MetricsFile(const std::string& path, int64_t after);

  // Lines kept from before, parsed.
  const std::vector<nlohmann::json>& kept() const { return kept_; }
  // Appends one line; it is in the system's hands when this returns.
  void append(const nlohmann::json& line);
  // Makes what was appended durable: before a checkpoint that counts on it.
  void sync();

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::vector<nlohmann::json> kept_;
};

}  // namespace tenon::trainer
