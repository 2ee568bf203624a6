(() => {
  // the pictures stand in the script before this one; the figure may be put into the page a moment later
  const content = JSON.parse(document.currentScript.previousElementSibling.textContent);
  const bringToLife = attempts => {
    const figure = document.getElementById(content.id);
    if (figure === null) return attempts && setTimeout(bringToLife, 100, attempts - 1);
    const form = document.createElement("form"), image = figure.querySelector("img");
    const caption = figure.querySelector("figcaption em");
    caption.setAttribute("aria-live", "polite");
    form.dataset.lmSuppressShortcuts = "true";  // JupyterLab would take the arrow keys
    form.style.cssText = "display: flex; flex-wrap: wrap; gap: .5em 1.5em; margin: .5em 0";
    form.onsubmit = () => false;
    const places = content.controls.map(control => {
      const label = form.appendChild(document.createElement("label"));
      label.append(control.label + " ");
      const input = label.appendChild(document.createElement(control.kind === "select" ? "select" : "input"));
      if (control.kind === "select") control.texts.forEach((text, place) => input.add(new Option(text, place)));
      else Object.assign(input, {type: "range", min: 0, max: control.texts.length - 1, step: 1});
      input.value = control.start;
      const reading = control.kind === "range" && label.appendChild(document.createElement("output"));
      input.oninput = () => show();
      return () => {
        if (reading) {
          reading.textContent = " " + control.texts[input.value];
          input.setAttribute("aria-valuetext", control.texts[input.value]);
        }
        return Number(input.value);
      };
    });
    const show = () => {
      // the last control changes fastest, as in itertools.product
      const state = places.reduce((sum, place, i) => sum * content.controls[i].texts.length + place(), 0);
      [image.src, image.alt] = content.states[state];
      caption.textContent = `${content.caption} ${image.alt}`.trim();
    };
    figure.querySelector("form")?.remove();
    figure.prepend(form);
    show();
  };
  bringToLife(50);
})();
