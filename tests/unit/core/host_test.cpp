// The host's table: error slot, log, and statuses that become sentences.
#include "core/plugins/answer.h"
#include "core/plugins/host.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <new>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/sentence.h"
#include "plugin_folder.h"

namespace tenon {
namespace {

using testing::sentence_of;

TEST(Host, CheckCarriesThePluginsSentence) {
  host()->error(host(), TN_E_NUMERIC, "row 3 holds NaN");
  int32_t code = 0;
  EXPECT_EQ(sentence_of([] { check(TN_E_NUMERIC, "adamw: step 7"); }, &code), "adamw: step 7: row 3 holds NaN");
  EXPECT_EQ(code, TN_E_NUMERIC);
  EXPECT_EQ(take_report().status, 0) << "the slot is empty afterwards";
}

TEST(Host, AStaleSentenceIsNotShown) {
  host()->error(host(), TN_E_UNSUPPORTED, "an earlier question was answered with no");
  EXPECT_EQ(sentence_of([] { check(TN_E_MEMORY, "copy"); }), "copy: out of memory, or over the memory limit");
  host()->error(host(), TN_E_MEMORY, "an earlier failure");
  check(TN_OK, "something that went well");
  EXPECT_EQ(sentence_of([] { check(TN_E_MEMORY, "copy"); }), "copy: out of memory, or over the memory limit");
}

TEST(Host, DegradedIsNotAnError) {
  EXPECT_NO_THROW(check(TN_DEGRADED, "anything"));
}

TEST(Host, TheSlotIsPerThread) {
  host()->error(host(), TN_E_STATE, "here");
  std::thread([] { EXPECT_EQ(take_report().status, 0); }).join();
  EXPECT_EQ(take_report().sentence, "here");
}

// A plugin calls back into the host: whatever is thrown there ends before the plugin's own frames.
TEST(Host, NothingIsThrownThroughAPlugin) {
  EXPECT_EQ(answer([] {}), TN_OK);
  EXPECT_EQ(answer([] { throw Error(TN_E_CONFLICT, "the slot is taken"); }), TN_E_CONFLICT);
  EXPECT_EQ(take_report().sentence, "the slot is taken");
  EXPECT_EQ(answer([] { throw std::bad_alloc(); }), TN_E_MEMORY);
  EXPECT_NE(take_report().sentence.find("memory"), std::string::npos);
  EXPECT_EQ(answer([] { std::vector<int>().at(3); }), TN_E_INTERNAL);
  EXPECT_NE(take_report().sentence.find("report it"), std::string::npos);
  EXPECT_EQ(answer([] { throw 7; }), TN_E_INTERNAL);
  EXPECT_EQ(take_report().status, TN_E_INTERNAL);
}

TEST(Host, WhatTheFileSystemRefusesIsASentenceThatNamesThePath) {
  EXPECT_EQ(answer([] { (void)std::filesystem::file_size("/nowhere/at all"); }), TN_E_IO);
  const std::string said = take_report().sentence;
  EXPECT_EQ(said.rfind("/nowhere/at all: ", 0), 0u) << said;
  EXPECT_EQ(said.find("filesystem"), std::string::npos) << said;
}

TEST(Host, SentencesAreCleaned) {
  EXPECT_EQ(clean_sentence("two\nlines\tand \x1b[31mcolour\n"), "two lines and  [31mcolour");
  EXPECT_EQ(clean_sentence("caf\xc3\xa9 \xff\xfe"), "café ??");
  EXPECT_LE(clean_sentence(std::string(100'000, 'x')).size(), 2000u);
  host()->error(host(), TN_E_STATE, nullptr);
  EXPECT_EQ(take_report().sentence, "");
}

TEST(Host, LogLinesReachTheSink) {
  std::vector<std::string> lines;
  set_log_sink(
      [&](int32_t level, std::string_view line) { lines.push_back(std::to_string(level) + ' ' + std::string(line)); });
  host()->log(host(), TN_LOG_WARNING, "slow path");
  set_log_sink({});
  host()->log(host(), TN_LOG_WARNING, "nobody listens");
  EXPECT_EQ(lines, std::vector<std::string>{"3 slow path"});
}

TEST(Host, KnowsNoExtensionYet) {
  EXPECT_EQ(host()->get_extension(host(), "org.tenon.nothing/1"), nullptr);
}

}  // namespace
}  // namespace tenon
