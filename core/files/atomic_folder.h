// Folders that appear whole or not at all, for checkpoints and exported models.
#pragma once

#include <string>

namespace tenon {

// Fill path(), then commit(): every file is made durable and the folder is renamed to its final name in one step.
// Not thread-safe. Every failure throws one Error that names the path and the reason.
class AtomicFolder {
 public:
  // Makes `target`.tmp-...; the folder above `target` must exist.
  explicit AtomicFolder(const std::string& target);
  ~AtomicFolder();  // Without a commit the temporary folder is removed with all that is in it.
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  // The folder to write into.
  const std::string& path() const { return temporary_; }

  // Publishes the folder. Throws TN_E_CONFLICT when the target exists already.
  void commit();

  // Publishes the folder in place of an existing target, which is removed afterwards. A reader sees the old folder or
  // the new one; on a file system that cannot exchange two names there is an instant with neither.
  void commit_replacing();

 private:
  void publish(bool replace);

  std::string target_;
  std::string temporary_;
};

// Whether `name` (a last path component) is a temporary of AtomicFile or AtomicFolder. What a killed process left
// behind carries such a name; only an owner who knows that no other writer is at work may remove it.
bool is_temporary_name(const std::string& name);

}  // namespace tenon
