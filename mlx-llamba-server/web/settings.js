// The choices of the user. The key is kept for the tab only.

const DEFAULTS = {
  /** The server that the page comes from. */
  url: location.origin,
  temperature: "0.7",
  max: "200",
  seed: "",
  system: "",
};

export function load() {
  const given = new URLSearchParams(location.search).get("server");
  const kept = JSON.parse(localStorage.getItem("settings") ?? "{}");
  const all = { ...DEFAULTS, ...kept, key: sessionStorage.getItem("key") ?? "" };
  return given ? { ...all, url: given } : all;
}

export function save({ key, ...rest }) {
  localStorage.setItem("settings", JSON.stringify(rest));
  sessionStorage.setItem("key", key);
}

/** The options of a request; `attempt` makes another reply of the same seed. */
export function generation(settings, attempt = 0) {
  const options = {
    temperature: Number(settings.temperature),
    max_completion_tokens: Number(settings.max),
  };
  if (settings.seed !== "") options.seed = Number(settings.seed) + attempt;
  return options;
}
