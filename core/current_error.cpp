#include "core/current_error.h"

#include <filesystem>
#include <new>

#include "core/sentence.h"

namespace tenon {

Error current_error() {
  try {
    throw;
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return Error(TN_E_MEMORY, "the system has no memory left for the host's own data; use a smaller model, batch or data file, or end other programs");
  } catch (const std::filesystem::filesystem_error& e) {
    return Error(TN_E_IO, e.path1().string() + ": " + e.code().message() + "; check the path, its permissions and the disk");
  } catch (const std::exception& e) {
    return Error(TN_E_INTERNAL, clean_sentence(std::string("a defect of Tenon, please report it: ") + e.what()));
  } catch (...) {
    return Error(TN_E_INTERNAL, "a defect of Tenon, please report it");
  }
}

}  // namespace tenon
