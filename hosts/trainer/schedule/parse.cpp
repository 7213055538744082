#include "hosts/trainer/schedule/parse.h"

#include <charconv>
#include <string_view>

#include "core/error.h"

namespace tenon::trainer {
namespace {

constexpr struct {
  std::string_view name;
  Checkpointing member;
} kMembers[] = {{"qkv", Checkpointing::kQkv}, {"attention", Checkpointing::kFlashCut}, {"middle", Checkpointing::kMiddle}, {"mlp", Checkpointing::kMlp}};

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && s.front() == ' ') s.remove_prefix(1);
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

// Calls `use` with each piece of a list.
template <class F>
void each(std::string_view list, char separator, F&& use) {
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(separator, at), list.size());
    use(trimmed(list.substr(at, end - at)));
    at = end + 1;
  }
}

[[noreturn]] void refuse(std::string_view part, const char* expected) {
  throw Error(TN_E_ARGUMENT, "--grad-checkpoint " + std::string(part.substr(0, 60)) + " is not " + expected);
}

int64_t number(std::string_view text, std::string_view whole) {
  int64_t n = -1;
  const auto [p, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || p != text.data() + text.size() || n < 0 || n > (1 << 20)) refuse(whole, "a policy with a number of 0 to 1048576 where it has one");
  return n;
}

Checkpointing parse_policy(std::string_view name) {
  if (name == "none") return Checkpointing::kNone;
  if (name == "block") return Checkpointing::kBlock;
  if (name == "flash-cut") return Checkpointing::kFlashCut;
  if (!name.starts_with("keep:")) refuse(name, "one of none, block, flash-cut, every-K, keep:LIST");
  Checkpointing policy = Checkpointing::kBlock;
  each(name.substr(5), '+', [&](std::string_view part) {
    for (const auto& [known, member] : kMembers)
      if (part == known) {
        policy = policy | member;
        return;
      }
    refuse(name, "a list of qkv, attention, middle, mlp joined by +");
  });
  return policy;
}

}  // namespace

void parse_checkpointing(const std::string& text, MemoryOptions& memory) {
  bool first = true;
  each(text, ',', [&](std::string_view part) {
    constexpr std::string_view kFor = " for block";
    const size_t at = part.find(kFor);
    if (first && part.starts_with("every-")) {
      memory.every = number(part.substr(6), part);
      if (memory.every < 1) refuse(part, "every-1 or more");
    } else if (first && at == std::string_view::npos) {
      memory.checkpointing = parse_policy(part);
    } else if (at != std::string_view::npos) {
      std::string_view range = part.substr(at + kFor.size());
      if (range.starts_with('s')) range.remove_prefix(1);
      range = trimmed(range);
      const size_t dash = range.find('-');
      BlockPolicy p;
      p.first = number(range.substr(0, dash), part);
      p.last = dash == std::string_view::npos ? p.first : number(range.substr(dash + 1), part);
      if (p.last < p.first) refuse(part, "a range of blocks that begins before it ends");
      p.policy = parse_policy(trimmed(part.substr(0, at)));
      memory.block_policies.push_back(p);
    } else {
      refuse(part, "followed by the blocks that it is for, as in `none for blocks 24-29`");
    }
    first = false;
  });
  if (memory.every > 1 && !memory.block_policies.empty())
    throw Error(TN_E_ARGUMENT, "--grad-checkpoint every-" + std::to_string(memory.every) + " runs groups of blocks again whole, so no block can have a policy of its own; drop one of the two");
}

void check_memory_options(const MemoryOptions& m, bool checkpointing) {
  const auto refuse_both = [](const char* a, const char* b, const char* why) {
    throw Error(TN_E_CONFLICT, std::string(a) + " and " + b + " exclude one another: " + why);
  };
  const bool policy = checkpointing && m.every == 1 && !(m.checkpointing == Checkpointing::kBlock && m.block_policies.empty());
  if (m.stream_rows > 0 && m.chunk_rows > 0) refuse_both("--streambp", "--seco", "both cut the sequence, one inside a block, one through all blocks; choose one");
  if (m.stream_rows > 0 && policy) refuse_both("--streambp", "this --grad-checkpoint", "slices keep a block's input alone; pass block or every-K, or drop it");
  if (m.chunk_rows > 0 && checkpointing) refuse_both("--seco", "--grad-checkpoint", "every chunk runs again from its tokens; drop --grad-checkpoint");
  if (m.chunk_rows > 0 && m.offload != Offload::kNone) refuse_both("--seco", "--act-offload", "chunks keep keys and values, no block inputs; drop --act-offload");
  if (m.chunk_rows == 0 && m.chunks_picked > 0)
    throw Error(TN_E_ARGUMENT, "--spaco picks among chunks; say their size with --seco ROWS");
}

}  // namespace tenon::trainer
