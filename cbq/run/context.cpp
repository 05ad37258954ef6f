#include "cbq/run/context.h"

namespace cbq {
namespace {

std::vector<ScheduledWindow> windows_of(const Settings& settings, int64_t blocks) {
  return settings.reconstructs() ? schedule_of(settings, blocks) : sliding_windows(blocks, 1, 0);
}

}  // namespace

RunContext::RunContext(Transformer& m, const Segments& calibration, const Settings& s,
                       std::shared_ptr<ActivationCache> cache, const RunHooks& h)
    : model(m),
      segments(calibration),
      settings(s),
      hooks(h),
      watch{h.interrupted, h.preparation},
      reconstructs(s.reconstructs()),
      schedule(windows_of(s, m.block_count())),
      solver(s.solves() ? parse_solver(s.solver) : nullptr),
      original(std::move(cache)) {}

void RunContext::say(const std::string& line) const {
  if (hooks.say) hooks.say(line);
}

void RunContext::note(const std::string& line) {
  notes.push_back(line);
  say(line);
}

std::string RunContext::doing() const {
  return solver ? "solving the layers, " + solver->name() : "rounding to nearest";
}

void RunContext::show(int64_t number, int64_t step, const std::string& what) const {
  const int64_t per_window = steps_per_window(settings, static_cast<int64_t>(segments.size()));
  if (!hooks.progress || per_window == 0) return;
  hooks.progress(number * per_window + step, static_cast<int64_t>(schedule.size()) * per_window,
                 what);
}

std::string name_of(const Window& w) {
  return w.count == 1 ? concat("block ", w.first) : concat("blocks ", w.first, "-", w.last());
}

}  // namespace cbq
