"use strict";

// Sorting, the confusion table and the viewer. Without this script the page shows the same as
// plain tables and rows of pictures.

(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // name, attributes, content (text, never HTML)
  function element(name, attributes = {}, ...content) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  }

  // Sorting: a header's button sorts one way, then the other, then restores the order

  function sortable(table) {
    const body = $("tbody", table);
    const rows = [...body.rows];
    for (const header of $$("th[data-sort]", table)) {
      const button = element("button", { type: "button" }, ...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const order = nextOrder(header);
        for (const other of $$("th[aria-sort]", table)) other.removeAttribute("aria-sort");
        if (order) header.setAttribute("aria-sort", order);
        body.append(...(order ? sorted(rows, header, order) : rows));
      });
    }
  }

  function nextOrder(header) {
    const orders = header.dataset.sort === "text" ? ["ascending", "descending"] : ["descending", "ascending"];
    return orders[orders.indexOf(header.getAttribute("aria-sort")) + 1];
  }

  function sorted(rows, header, order) {
    const sign = order === "ascending" ? 1 : -1;
    const textual = header.dataset.sort === "text";
    const value = (row) => row.cells[header.cellIndex].dataset.value;
    return [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (textual) return sign * x.localeCompare(y, undefined, { numeric: true });
      if (x === "" || y === "") return (x === "") - (y === ""); // undefined values come last
      return sign * (x - y);
    });
  }

  // The confusion table: one Tab stop, arrow keys inside

  function confusions(table, found, show) {
    const rows = $$("tbody tr", table).map((row) => $$("td", row));
    table.setAttribute("role", "grid");
    rows.flat().forEach((cell, index) => {
      cell.tabIndex = index ? -1 : 0;
      cell.setAttribute("aria-label", cell.title);
    });
    const positionOf = (cell) => [cell.parentNode.sectionRowIndex, cell.cellIndex - 1];

    function focus(row, column) {
      const cell = rows[row] && rows[row][column];
      if (!cell) return;
      for (const other of $$("td[tabindex='0']", table)) other.tabIndex = -1;
      cell.tabIndex = 0;
      cell.focus();
    }

    const read = (event) => {
      const cell = event.target.closest("td");
      if (cell) $(".readout", found).textContent = cell.hasAttribute("aria-selected") ? "" : cell.title;
    };
    table.addEventListener("pointerover", read);
    table.addEventListener("focusin", read);
    found.hidden = false;

    function open(cell) {
      for (const other of $$("td[aria-selected]", table)) other.removeAttribute("aria-selected");
      cell.setAttribute("aria-selected", "true");
      $(".readout", found).textContent = "";
      listImages($("[aria-live]", found), cell, show);
    }

    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td");
      if (!cell) return;
      focus(...positionOf(cell));
      open(cell);
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td");
      if (!cell) return;
      const [row, column] = positionOf(cell);
      const steps = {
        ArrowUp: () => focus(row - 1, column),
        ArrowDown: () => focus(row + 1, column),
        ArrowLeft: () => focus(row, column - 1),
        ArrowRight: () => focus(row, column + 1),
        Home: () => focus(row, 0),
        End: () => focus(row, rows[row].length - 1),
        Enter: () => open(cell),
        " ": () => open(cell),
      };
      if (!steps[event.key]) return;
      event.preventDefault();
      steps[event.key]();
    });
  }

  function listImages(answer, cell, show) {
    const images = data.confused[cell.dataset.at] || [];
    const list = element("ol");
    for (const [index, pixels] of images) {
      const name = data.images[index];
      const item = element("li");
      const open = show(name);
      if (open) {
        const button = element("button", { type: "button", class: "link" }, name);
        button.addEventListener("click", open);
        item.append(button);
      } else item.append(name);
      item.append(`: ${pixels.toLocaleString("en-GB")} pixels`);
      list.append(item);
    }
    const note = images.length ? "The images with most of these pixels:" : "No confused pixels here.";
    answer.replaceChildren(element("h3", {}, cell.title), element("p", { class: "note" }, note), list);
  }

  // The viewer

  const layers = { image: "Image", truth: "Truth", prediction: "Prediction", errors: "Errors", hard: "Hard pixels", confidence: "Confidence" };
  const hidden = new Set(); // class ids, whichever image is shown

  function colourNumbers() {
    return new Map(data.colours.map(([r, g, b], id) => [(r << 16) | (g << 8) | b, id]));
  }

  function pixelsOf(image) {
    const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // The class ids of a painted mask; ignored pixels get the number of classes
  function idsOf(pixels, numbers) {
    const ids = new Uint16Array(pixels.data.length / 4).fill(data.classes.length);
    const rgba = pixels.data;
    for (let i = 0, at = 0; i < ids.length; i++, at += 4) {
      if (rgba[at + 3]) ids[i] = numbers.get((rgba[at] << 16) | (rgba[at + 1] << 8) | rgba[at + 2]);
    }
    return ids;
  }

  // The layer, transparent where pixels are ignored or their class is hidden
  function withoutHidden(pixels, ids) {
    const shown = new ImageData(new Uint8ClampedArray(pixels.data), pixels.width);
    const off = new Set([...hidden, data.classes.length]);
    for (let i = 0; i < ids.length; i++) if (off.has(ids[i])) shown.data[4 * i + 3] = 0;
    const canvas = element("canvas", { width: pixels.width, height: pixels.height });
    canvas.getContext("2d").putImageData(shown, 0, 0);
    return canvas;
  }

  // The pixels of each layer, and the class ids that decide which of them are hidden
  async function load(picture, numbers) {
    const images = Object.entries(picture.layers);
    await Promise.all(images.map(([, image]) => image.decode()));
    const pixels = Object.fromEntries(images.map(([key, image]) => [key, pixelsOf(image)]));
    const truth = idsOf(pixels.truth, numbers);
    return { pixels, ids: { truth, prediction: idsOf(pixels.prediction, numbers), errors: truth, hard: truth, confidence: truth } };
  }

  function viewer(root, gallery) {
    const numbers = colourNumbers();
    const panes = $$(".pane", root);
    const [stage, where, toggles, slider, readout] = [".stage", ".where", ".toggles ul", "#opacity", ".readout"].map((s) => $(s, root));
    const pictures = $$("li", gallery).map((item) => ({
      name: $("h3", item).textContent,
      caption: $("p", item).textContent,
      kind: item.dataset.kind,
      layers: Object.fromEntries($$("img", item).map((image) => [image.dataset.layer, image])),
    }));
    let current = 0;
    let loaded = null; // the current picture only: all of them would fill a phone's memory

    function chosenLayers() {
      const layer = $("input[name=layer]:checked", root).value;
      if (layer === "both") return ["truth", "prediction"];
      return [pictures[current].layers[layer] ? layer : "image"];
    }

    function drawPane(pane, key) {
      const picture = pictures[current];
      const canvas = $("canvas", pane);
      const photo = picture.layers.image;
      canvas.width = photo.naturalWidth;
      canvas.height = photo.naturalHeight;
      canvas.style.setProperty("--ratio", canvas.width / canvas.height);
      canvas.classList.toggle("small", canvas.width < 320);
      const context = canvas.getContext("2d");
      context.drawImage(photo, 0, 0);
      if (key !== "image") {
        context.globalAlpha = slider.value / 100;
        context.drawImage(withoutHidden(loaded.pixels[key], loaded.ids[key]), 0, 0);
      }
      canvas.setAttribute("aria-label", key === "image" ? picture.layers.image.alt : `${picture.layers[key].alt}, over the image`);
      $("figcaption", pane).textContent = layers[key];
    }

    function draw() {
      if (!loaded) return;
      const keys = chosenLayers();
      stage.classList.toggle("two", keys.length > 1);
      panes.forEach((pane, index) => {
        pane.hidden = !keys[index];
        if (keys[index]) drawPane(pane, keys[index]);
      });
      $("output", root).textContent = `${slider.value} %`;
    }

    async function go(index) {
      current = (index + pictures.length) % pictures.length;
      loaded = null;
      const picture = pictures[current];
      const found = await load(picture, numbers);
      if (picture !== pictures[current]) return; // another picture was selected meanwhile
      loaded = found;
      where.replaceChildren(
        element("strong", {}, picture.name),
        element("span", { class: "soft" }, picture.caption),
        element("span", { class: "soft" }, `${current + 1} of ${pictures.length}`),
      );
      listClasses();
      draw();
      $$("button", strip).forEach((thumb, i) => thumb.setAttribute("aria-current", i === current));
      const thumb = $$("button", strip)[current];
      strip.scrollTo({ left: thumb.offsetLeft - strip.clientWidth / 2 + thumb.clientWidth / 2 });
    }

    function listClasses() {
      if (!loaded) return;
      const present = new Set([...loaded.ids.truth, ...loaded.ids.prediction]);
      present.delete(data.classes.length);
      toggles.replaceChildren(...[...present].sort((a, b) => a - b).map((id) => {
        const box = element("input", { type: "checkbox", value: id });
        box.checked = !hidden.has(id);
        const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
        swatch.style.setProperty("--colour", `rgb(${data.colours[id].join(" ")})`);
        return element("li", {}, element("label", {}, box, swatch, data.classes[id]));
      }));
    }

    function thumbnail(picture, index) {
      const image = element("img", { src: picture.layers.image.src, alt: "" });
      const words = element("span", { class: "hidden" }, `: ${picture.name}`);
      const button = element("button", { type: "button" }, image, rankOf(picture, index), words);
      button.addEventListener("click", () => go(index));
      return element("li", {}, button);
    }

    // Rank within the worst or the best
    function rankOf(picture, index) {
      const before = pictures.findIndex((other) => other.kind === picture.kind);
      return `${picture.kind} ${index - before + 1}`;
    }

    function toggle(id, shown) {
      if (shown) hidden.delete(id);
      else hidden.add(id);
    }

    function read(event) {
      const canvas = event.target.closest("canvas");
      if (!canvas || !loaded) return;
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
      const at = y * canvas.width + x;
      const name = (ids) => data.classes[ids[at]] ?? "ignored";
      readout.textContent = `Truth: ${name(loaded.ids.truth)}. Predicted: ${name(loaded.ids.prediction)}.`;
    }

    const strip = $(".strip", root);
    strip.append(...pictures.map(thumbnail));
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.step) go(current + Number(button.dataset.step));
      if (!button?.dataset.all) return;
      data.classes.forEach((_, id) => toggle(id, button.dataset.all === "true"));
      listClasses();
      draw();
    });
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || event.target.matches("input")) return;
      event.preventDefault();
      go(current + step);
    });
    root.addEventListener("input", (event) => {
      if (event.target.type === "checkbox") toggle(Number(event.target.value), event.target.checked);
      draw();
    });
    stage.addEventListener("pointermove", read);
    stage.addEventListener("pointerdown", read);
    root.hidden = false;
    gallery.classList.add("printed");
    go(0);

    // A function that shows the image of that name, or null where the viewer lacks it
    return (name) => {
      const index = pictures.findIndex((picture) => picture.name === name);
      return index < 0 ? null : () => {
        go(index);
        stage.focus({ preventScroll: true });
        root.scrollIntoView({ block: "nearest" });
      };
    };
  }

  $$("table:has(th[data-sort])").forEach(sortable);
  for (const text of $$(".needs-script")) text.hidden = false;
  const show = $("#viewer") ? viewer($("#viewer"), $("#gallery")) : () => null;
  confusions($("#matrix"), $("#found"), show);
})();
