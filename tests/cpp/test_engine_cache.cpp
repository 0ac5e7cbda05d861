// Engines that are kept on the disk, and the files they are in.
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "common/files.h"
#include "folder.h"
#include "runtime/engine_cache.h"

namespace fs = std::filesystem;
using namespace edgedet;  // NOLINT(google-build-using-namespace)
using test::Folder;
using test::slurp;
using test::spill;

namespace {

using Plan = std::vector<char>;

Plan plan_of(const std::string& text) { return {text.begin(), text.end()}; }

EngineKey key_of(const std::string& onnx) {
  EngineKey key;
  key.add("onnx", onnx).add("capability", 86);
  return key;
}

// Counts how often it builds.
struct Builds {
  int count = 0;
  Plan operator()(const std::string& text) {
    ++count;
    return plan_of(text);
  }
};

}  // namespace

TEST(engine_cache_builds_once) {
  const Folder folder;
  const std::string nested = folder / "a/b";
  Builds builds;
  for (int i = 0; i < 3; ++i) {
    CHECK(load_or_build(key_of("x"), nested, [&] { return builds("plan of x"); }) == plan_of("plan of x"));
  }
  CHECK(builds.count == 1);
  CHECK(load_or_build(key_of("y"), nested, [&] { return builds("plan of y"); }) == plan_of("plan of y"));
  CHECK(builds.count == 2);
  CHECK(load_or_build(key_of("x"), "", [&] { return builds("kept nowhere"); }) == plan_of("kept nowhere"));
}

TEST(engine_cache_rebuilds_what_is_damaged) {
  const Folder folder;
  const EngineKey key = key_of("x");
  const std::string path = engine_path(key, folder.path());
  Builds builds;
  const auto load = [&] { return load_or_build(key, folder.path(), [&] { return builds("the plan"); }); };
  load();
  const std::string entry = slurp(path);
  std::vector<std::string> damaged = {"", "x", entry.substr(0, 20), entry.substr(0, entry.size() - 1), entry + "x"};
  for (std::size_t at = 0; at < entry.size(); at += 7) {
    damaged.push_back(entry);
    damaged.back()[at] = static_cast<char>(damaged.back()[at] ^ 1);
  }
  // A size that claims more than there is.
  damaged.push_back(entry);
  damaged.back().replace(entry.size() - 8 - 64 - 16, 16, "ffffffffffffffff");
  for (const std::string& content : damaged) {
    spill(path, content);
    const int before = builds.count;
    CHECK(load() == plan_of("the plan"));
    CHECK(builds.count == before + 1);
    CHECK(slurp(path) == entry);
  }
}

TEST(engine_cache_refuses_another_key) {
  const Folder folder;
  Builds builds;
  load_or_build(key_of("x"), folder.path(), [&] { return builds("plan of x"); });
  fs::copy_file(engine_path(key_of("x"), folder.path()), engine_path(key_of("y"), folder.path()));
  CHECK(load_or_build(key_of("y"), folder.path(), [&] { return builds("plan of y"); }) == plan_of("plan of y"));
  CHECK(builds.count == 2);
}

TEST(engine_cache_takes_only_files) {
  const Folder folder;
  Builds builds;
  const std::string path = engine_path(key_of("x"), folder.path());
  fs::create_directories(path);
  CHECK_THROWS(ErrorKind::kBackend, "put it in its place",
               load_or_build(key_of("x"), folder.path(), [&] { return builds("plan"); }));
  CHECK(folder.files() == 2);  // the folder in the way and the lock: nothing half-written
  spill(folder / "file", "");
  CHECK_THROWS(ErrorKind::kBackend, "a folder for engines",
               load_or_build(key_of("x"), folder / "file/below", [&] { return builds("plan"); }));
}

TEST(engine_cache_keeps_nothing_of_a_failed_build) {
  const Folder folder;
  const auto fails = []() -> Plan { throw std::runtime_error("no memory"); };
  bool thrown = false;
  try {
    load_or_build(key_of("x"), folder.path(), fails);
  } catch (const std::runtime_error& error) {
    thrown = std::string(error.what()) == "no memory";
  }
  CHECK(thrown);
  CHECK(!fs::exists(engine_path(key_of("x"), folder.path())));
  CHECK(folder.files() == 1);  // the lock
  Builds builds;
  CHECK(load_or_build(key_of("x"), folder.path(), [&] { return builds("plan"); }) == plan_of("plan"));
}

TEST(engine_cache_removes_what_a_killed_process_left) {
  const Folder folder;
  const EngineKey key = key_of("x");
  const std::string path = engine_path(key, folder.path());
  spill(path + ".a1B2c3", "half of a plan");
  spill(engine_path(key_of("y"), folder.path()) + ".a1B2c3", "of another, which may be written just now");
  Builds builds;
  load_or_build(key, folder.path(), [&] { return builds("plan"); });
  CHECK(!fs::exists(path + ".a1B2c3"));
  CHECK(folder.files() == 3);  // the engine, its lock and the other's
}

TEST(engine_cache_knows_what_it_keeps) {
  const Folder folder;
  const EngineKey key = key_of("x");
  const std::string path = engine_path(key, folder.path());
  CHECK(!is_kept(key, folder.path()) && !is_kept(key, "") && !is_kept(key, folder / "none"));
  Builds builds;
  load_or_build(key, folder.path(), [&] { return builds("plan"); });
  CHECK(is_kept(key, folder.path()) && !is_kept(key_of("y"), folder.path()));
  const std::string entry = slurp(path);
  for (const std::string& damaged : {std::string(), entry.substr(0, 40), entry + "x", "x" + entry.substr(1)}) {
    spill(path, damaged);
    CHECK(!is_kept(key, folder.path()));
  }
}

TEST(engine_cache_locks_between_processes) {
  const Folder folder;
  const std::string log = folder / "builds";
  constexpr int kProcesses = 6;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      const Plan plan = load_or_build(key_of("x"), folder.path(), [&] {
        std::ofstream(log, std::ios::app) << "b";
        ::usleep(50000);
        return plan_of("plan");
      });
      ::_exit(plan == plan_of("plan") ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  CHECK(slurp(log) == "b");
}

TEST(engine_cache_locks_between_threads) {
  const Folder folder;
  std::vector<std::thread> threads;
  std::vector<int> built(6);
  for (int& count : built) {
    threads.emplace_back([&folder, &count] {
      load_or_build(key_of("x"), folder.path(), [&count] {
        ++count;
        ::usleep(20000);
        return plan_of("plan");
      });
    });
  }
  int total = 0;
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const int count : built) {
    total += count;
  }
  CHECK(total == 1);
}

TEST(engine_key_knows_names_values_and_where_they_end) {
  const auto digest = [](const std::vector<std::pair<std::string, std::string>>& fields) {
    EngineKey key;
    for (const auto& [name, value] : fields) {
      key.add(name, value);
    }
    return key.digest();
  };
  const std::string plain = digest({{"onnx", "a"}, {"gpu", "b"}});
  CHECK(plain.size() == 64);
  CHECK(plain == digest({{"onnx", "a"}, {"gpu", "b"}}));
  CHECK(plain != digest({{"onnx", "a"}, {"gpu", "c"}}));
  CHECK(plain != digest({{"onnx", "a"}, {"cpu", "b"}}));
  CHECK(plain != digest({{"onnx", "a"}}));
  CHECK(plain != digest({{"onnx", "a\ngpu 1 b"}}));
  CHECK(EngineKey().add("n", 12).digest() == EngineKey().add("n", "12").digest());
}

TEST(files_are_read_within_limits) {
  const Folder folder;
  const std::string path = folder / "file";
  write_file(path, {"ab", "", "cd"});
  CHECK(read_file(path, 4) == plan_of("abcd"));
  CHECK(!read_file(path, 3));
  CHECK(!read_file(folder / "none", 4));
  CHECK(!read_file(folder.path(), 1U << 20U));
  CHECK(folder.files() == 1);
  CHECK_THROWS(ErrorKind::kBackend, "create a file", write_file(folder / "none/file", {"x"}));
}
