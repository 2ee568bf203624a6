"""Move the explorers of a page through all their states, and judge the picture that each state shows."""

# [{id, count: states expected, states: [{text, width, height, ink: [share of drawn pixels in each quarter], mark}]}]
MOVE = """(async () => {
  const judged = async image => {
    await image.decode();
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const canvas = Object.assign(document.createElement("canvas"), {width, height});
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const ink = [[0, 0], [1, 0], [0, 1], [1, 1]].map(([x, y]) => {
      const {data} = context.getImageData(x * width >> 1, y * height >> 1, width >> 1, height >> 1);
      let drawn = 0;
      for (let i = 0; i < data.length; i += 4) drawn += data[i] + data[i + 1] + data[i + 2] < 720;
      return 4 * drawn / data.length;
    });
    return {text: image.alt, width, height, ink, mark: image.src.slice(-200)};
  };
  const found = [];
  for (const form of document.querySelectorAll("figure > form")) {
    const controls = [...form.querySelectorAll("input, select")], image = form.parentElement.querySelector("img"), states = [];
    const sizes = controls.map(control => control.options?.length ?? Number(control.max) + 1);
    const count = sizes.reduce((product, size) => product * size, 1);
    for (let state = 0; state < count; state++) {
      let rest = state;
      for (let i = controls.length - 1; i >= 0; i--) {
        controls[i].value = rest % sizes[i];
        rest = Math.floor(rest / sizes[i]);
      }
      controls[0].dispatchEvent(new Event("input"));
      try { states.push(await judged(image)); }
      catch (error) { states.push({text: image.alt, error: String(error)}); }
    }
    found.push({id: form.parentElement.id, count, states});
  }
  return found;
})()"""


def wrong_states(explorers: list[dict], least: float = 0.002) -> list[str]:
    """What is wrong with the explorers that `MOVE` moved, one line a state.

    A whole picture is decoded, as large as the others, has something drawn in each of its quarters, and its own words.
    """
    lines = []
    for explorer in explorers:
        sizes = {(state.get("width"), state.get("height")) for state in explorer["states"]}
        if len(sizes) > 1:
            lines.append(f"explorer {explorer['id']}: pictures of several sizes, {sorted(sizes, key=str)}")
        if len(explorer["states"]) < explorer["count"]:
            lines.append(f"explorer {explorer['id']}: {len(explorer['states'])} of {explorer['count']} states were seen")
        elif len({state.get("mark") for state in explorer["states"]}) == 1 < explorer["count"]:
            lines.append(f"explorer {explorer['id']}: its picture never changes")
        for number, state in enumerate(explorer["states"]):
            name = f"explorer {explorer['id']}, state {number + 1} of {explorer['count']}"
            if "error" in state:
                lines.append(f"{name}: {state['error']}")
            elif min(state["ink"]) < least:
                lines.append(f"{name}: a quarter of the picture is empty, {state['ink']}")
            if len(state["text"].split()) < 3:
                lines.append(f"{name}: no words, {state['text']!r}")
    return lines
