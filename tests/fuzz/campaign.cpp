#include "tests/fuzz/campaign.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <typeinfo>

#include "nn/formats/unicode.h"
#include "tensor/error.h"

namespace fs = std::filesystem;

namespace cbq::fuzz {
namespace {

constexpr int64_t cases_per_process = 250;
constexpr size_t kept_per_kind = 3;
constexpr size_t longest_message = 4000;

/// A folder in memory where there is one, removed at the end.
class Arena {
 public:
  Arena() {
    std::error_code error;
    const fs::path memory = "/dev/shm";
    fs::path base = fs::temp_directory_path();
    if (::access(memory.c_str(), W_OK) == 0) base = memory;
    std::string name = (base / "cbq_fuzz_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("cannot make a folder in ", base.string());
    path_ = name;
  }
  ~Arena() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// What the parsing process tells the one that watches it, whatever becomes of it.
struct Progress {
  int64_t current = -1;  // case at hand
  int64_t done = 0, accepted = 0, refused = 0;
  double seconds = 0.0, slowest = 0.0;
};

class SharedProgress {
 public:
  SharedProgress() {
    void* at = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);
    if (at == MAP_FAILED) fail("mmap: ", std::strerror(errno));
    progress_ = new (at) Progress;
  }
  ~SharedProgress() { ::munmap(progress_, sizeof(Progress)); }
  SharedProgress(const SharedProgress&) = delete;
  SharedProgress& operator=(const SharedProgress&) = delete;
  Progress* operator->() const { return progress_; }
  void reset() { *progress_ = {}; }

 private:
  Progress* progress_;
};

struct Seed {
  fs::path folder;
  std::string bytes;
};

/// What is wrong with an exception; empty: it is how a parser refuses a file.
std::string fault_of(const std::exception& error, const FuzzTarget& target,
                     const fs::path& folder) {
  const std::type_info& type = typeid(error);
  const bool of_the_library = dynamic_cast<const std::system_error*>(&error) != nullptr;
  const std::string message = error.what();
  // Our own kinds of runtime_error count as one; std::out_of_range and the like do not.
  const bool right_type =
      type == typeid(std::invalid_argument) ||
      (dynamic_cast<const std::runtime_error*>(&error) != nullptr && !of_the_library);
  if (!right_type) return fmt::format("exception of the type {}", type.name());
  bool named = message.find(folder.string()) != std::string::npos;
  for (const std::string& name : target.names) named |= message.find(name) != std::string::npos;
  if (!named) return "a message that does not name the file";
  if (!is_utf8(message)) return "a message that is not UTF-8";
  if (message.size() > longest_message) return "a message of thousands of characters";
  return "";
}

/// The beginning of a report, without what differs from input to input: numbers, quotations,
/// whatever is repeated or no ASCII.
std::string kind_of(const std::string& text) {
  std::string kind;
  char quote = 0;
  for (size_t i = 0; i < text.size() && kind.size() < 120; ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) >= 128) break;
    const bool opens = c == '"' || (c == '\'' && (i == 0 || text[i - 1] == ' '));
    if (quote == 0 && opens) {
      quote = c;
      kind += "..";
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if ((c < '0' || c > '9') && !(i > 1 && c == text[i - 1] && c == text[i - 2])) {
      kind += c < ' ' ? ' ' : c;
    }
  }
  return kind;
}

/// Of a sanitizer's report: its first line, and the innermost place in this project.
std::string kind_of_report(const std::string& report) {
  std::string kind;
  for (size_t begin = 0; begin < report.size();) {
    const size_t end = std::min(report.find('\n', begin), report.size());
    const std::string line = report.substr(begin, end - begin);
    begin = end + 1;
    for (const char* mark : {"ERROR: ", "runtime error: ", "LIMIT: ", "terminate called"}) {
      const size_t at = line.find(mark);
      if (kind.empty() && at != std::string::npos) kind = line.substr(at, 80);
    }
    const size_t source = line.find(CBQ_SOURCE_DIR "/");
    if (!kind.empty() && line.find("    #") == 0 && source != std::string::npos &&
        line.find("/tests/fuzz/") == std::string::npos) {
      return kind_of(kind) + " in " + line.substr(source + sizeof(CBQ_SOURCE_DIR));
    }
  }
  return kind_of(kind.empty() ? report.substr(report.size() - std::min<size_t>(report.size(), 200))
                              : kind);
}

class Campaign {
 public:
  Campaign(const FuzzTarget& target, const CampaignOptions& options)
      : target_(target), options_(options) {}

  TargetResult run() {
    const auto start = std::chrono::steady_clock::now();
    make_seeds();
    const auto seeds = static_cast<int64_t>(seeds_.size());
    run_range(-seeds, 0);  // the seeds themselves
    const int64_t end = options_.first + options_.count;
    for (int64_t at = options_.first; at < end; at += cases_per_process) {
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
      if (options_.seconds > 0.0 && passed.count() > options_.seconds) break;
      run_range(at, std::min(at + cases_per_process, end));
    }
    return result_;
  }

  std::string run_file(const fs::path& file) {
    const fs::path copy = arena_.path() / "given";
    fs::path folder = fs::absolute(file);
    for (const auto& part : fs::path(target_.file)) {
      if (!part.empty()) folder = folder.parent_path();
    }
    fs::copy(folder, copy, fs::copy_options::recursive);
    seeds_ = {{copy, read_bytes(file)}};
    run_range(-1, 0, false);
    return result_.failures.empty() ? "" : result_.failures[0].report;
  }

 private:
  fs::path log() const { return arena_.path() / "log"; }
  fs::path records() const { return arena_.path() / "records"; }

  /// In a process of its own: a writer that starts threads would leave forked ones without them.
  void make_seeds() {
    const fs::path folder = arena_.path() / "corpus";
    fs::create_directories(folder);
    const pid_t child = fork_with_log();
    if (child == 0) {
      try {
        target_.seeds(folder);
        ::_exit(0);
      } catch (const std::exception& error) {
        fmt::print(stderr, "{}\n", error.what());
        std::fflush(stderr);
      }
      ::_exit(1);
    }
    if (wait_for(child) != 0) fail(target_.name, ": no corpus: ", read_bytes(log()));
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(folder)) folders.push_back(entry.path());
    std::sort(folders.begin(), folders.end());
    for (const fs::path& one : folders) seeds_.push_back({one, read_bytes(one / target_.file)});
    if (seeds_.empty()) fail(target_.name, ": the corpus is empty");
  }

  pid_t fork_with_log() const {
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child < 0) fail("fork: ", std::strerror(errno));
    if (child == 0) {
      const int out = ::open(log().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(out, STDERR_FILENO);
    }
    return child;
  }

  static int wait_for(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
  }

  struct Case {
    const Seed* seed;
    std::string bytes;
  };
  /// Negative numbers: the seeds, unchanged.
  Case case_of(int64_t number) const {
    if (number < 0) {
      const Seed& seed = seeds_[static_cast<size_t>(-number - 1)];
      return {&seed, seed.bytes};
    }
    Random random(options_.seed, target_.name, static_cast<uint64_t>(number));
    const Seed& seed = random.of(seeds_);
    const std::string& other = random.of(seeds_).bytes;
    return {&seed, mutated(seed.bytes, other, target_, random)};
  }

  /// Runs the cases in processes, a new one behind each case that ends its process.
  void run_range(int64_t begin, int64_t end, bool seeds_must_pass = true) {
    while (begin < end) {
      progress_->current = begin;
      write_bytes(records(), "");
      const pid_t child = fork_with_log();
      if (child == 0) parse_all(begin, end, seeds_must_pass);
      const int status = wait_for(child);
      const int64_t at = progress_->current;
      read_records();
      result_.cases += progress_->done;
      result_.accepted += progress_->accepted;
      result_.refused += progress_->refused;
      result_.seconds += progress_->seconds;
      result_.slowest = std::max(result_.slowest, progress_->slowest);
      progress_.reset();
      if (status == 0) return;
      if (WIFEXITED(status) && WEXITSTATUS(status) == leaked) {
        find_leak(begin, end, seeds_must_pass);
        return;
      }
      const std::string report = read_bytes(log());
      const std::string how = WIFSIGNALED(status)
                                  ? fmt::format("killed by signal {} ({})\n", WTERMSIG(status),
                                                strsignal(WTERMSIG(status)))
                                  : fmt::format("exit code {}\n", WEXITSTATUS(status));
      ++result_.cases;
      add_failure(at, "the process ended: " + kind_of_report(how + report), how + report);
      begin = at + 1;
    }
  }

  /// One half after the other, until a single case is left.
  void find_leak(int64_t begin, int64_t end, bool seeds_must_pass) {
    if (end - begin == 1) {
      const std::string report = read_bytes(log());
      add_failure(begin, kind_of_report(report), report);
      return;
    }
    const int64_t middle = begin + (end - begin) / 2;
    run_range(begin, middle, seeds_must_pass);
    run_range(middle, end, seeds_must_pass);
  }

  static constexpr int leaked = 96;

  [[noreturn]] void parse_all(int64_t begin, int64_t end, bool seeds_must_pass) {
    install_limits(options_.limits);
    const int out = ::open(records().c_str(), O_WRONLY | O_APPEND);
    for (int64_t number = begin; number < end; ++number) {
      progress_->current = number;
      const Case one = case_of(number);
      const fs::path file = one.seed->folder / target_.file;
      write_bytes(file, one.bytes);
      if (::ftruncate(STDERR_FILENO, 0) != 0) ::_exit(95);
      std::string kind, message;
      parse(file, number < 0 && seeds_must_pass, kind, message);
      ++progress_->done;
      if (kind.empty()) continue;
      message.resize(std::min(message.size(), 2 * longest_message));
      std::replace_if(
          message.begin(), message.end(), [](char c) { return c == '\x1e' || c == '\x1f'; },
          '?');  // they separate records and their parts
      const std::string record = fmt::format("{}\x1f{}\x1f{}\x1e", number, kind, message);
      if (::write(out, record.data(), record.size()) < 0) ::_exit(95);
    }
    ::_exit(memory_leaked() ? leaked : 0);
  }

  void parse(const fs::path& file, bool must_pass, std::string& kind, std::string& message) {
    begin_input();
    try {
      target_.run(file);
      ++progress_->accepted;
    } catch (const std::exception& error) {
      ++progress_->refused;
      message = error.what();
      kind = fault_of(error, target_, file.parent_path());
      if (must_pass && kind.empty()) kind = "a valid file is refused";
    } catch (...) {
      kind = message = "an exception that is no std::exception";
    }
    const double seconds = end_input();
    progress_->seconds += seconds;
    progress_->slowest = std::max(progress_->slowest, seconds);
  }

  void read_records() {
    const std::string text = read_bytes(records());
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\x1e', begin);
      const size_t first = text.find('\x1f', begin), second = text.find('\x1f', first + 1);
      const std::string message = text.substr(second + 1, end - second - 1);
      std::string without_path = message;
      for (size_t at; (at = without_path.find(arena_.path())) != std::string::npos;) {
        without_path.erase(at, arena_.path().string().size());
      }
      add_failure(std::stoll(text.substr(begin, first - begin)),
                  text.substr(first + 1, second - first - 1) + ": " + kind_of(without_path),
                  message);
      begin = end + 1;
    }
  }

  void add_failure(int64_t number, const std::string& kind, const std::string& report) {
    Failure failure{number, kind, report, {}};
    if (kept_[kind]++ < kept_per_kind && !options_.findings.empty()) {
      const Case one = case_of(number);
      failure.kept = options_.findings / target_.name / fmt::format("{}-{}", options_.seed, number);
      std::error_code ignored;
      fs::remove_all(failure.kept, ignored);
      fs::create_directories(failure.kept);
      fs::copy(one.seed->folder, failure.kept, fs::copy_options::recursive);
      write_bytes(failure.kept / "report.txt", kind + "\n\n" + report + "\n");
      failure.kept /= target_.file;
      write_bytes(failure.kept, one.bytes);
    }
    result_.failures.push_back(std::move(failure));
  }

  const FuzzTarget& target_;
  const CampaignOptions& options_;
  Arena arena_;
  SharedProgress progress_;
  std::vector<Seed> seeds_;
  TargetResult result_;
  std::map<std::string, size_t> kept_;  // by kind
};

}  // namespace

TargetResult run_campaign(const FuzzTarget& target, const CampaignOptions& options) {
  return Campaign(target, options).run();
}

std::string run_file(const FuzzTarget& target, const fs::path& file,
                     const CampaignOptions& options) {
  return Campaign(target, options).run_file(file);
}

}  // namespace cbq::fuzz
