// Theme, menu, search and folded sources of the plain pages; assets/search.js holds what can be found.
(function () {
  "use strict";
  var root = document.documentElement, base = root.dataset.base || "";
  var by = function (id) { return document.getElementById(id); };
  function theme(name) { root.dataset.theme = name; var b = by("theme"); if (b) { b.textContent = name === "dark" ? "Light" : "Dark"; b.setAttribute("aria-label", "change to the " + (name === "dark" ? "light" : "dark") + " theme"); } }
  function kept() { try { return localStorage.getItem("sm-theme"); } catch (e) { return null; } }
  theme(kept() || (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  document.addEventListener("DOMContentLoaded", function () {
    theme(root.dataset.theme);
    by("theme").addEventListener("click", function () {
      theme(root.dataset.theme === "dark" ? "light" : "dark");
      try { localStorage.setItem("sm-theme", root.dataset.theme); } catch (e) { /* a page from disk may not keep it */ }
    });
    by("menu").addEventListener("click", function () {
      var open = document.body.classList.toggle("menu-open");
      this.setAttribute("aria-expanded", String(open));
    });
    var current = document.querySelector(".side a[aria-current]"), side = document.querySelector(".side");
    if (current && side.scrollHeight > side.clientHeight) side.scrollTop = Math.max(0, current.offsetTop - side.clientHeight/2);
    var fold = by("fold");
    if (fold) fold.addEventListener("click", function () {
      var all = document.querySelectorAll("details.source"), open = fold.dataset.open !== "yes";
      all.forEach(function (d) { d.open = open; });
      fold.dataset.open = open ? "yes" : "no";
      fold.textContent = open ? "Hide the sources" : "Show the sources";
    });
    search(by("search"), by("found"));
  });
  function score(words, entry) {
    var title = entry.t.toLowerCase(), text = (entry.t + " " + entry.s + " " + entry.x).toLowerCase(), sum = 0;
    for (var k = 0; k < words.length; k++) {
      if (text.indexOf(words[k]) < 0) return 0;
      sum += title === words[k] ? 20 : title.indexOf(words[k]) === 0 ? 8 : title.indexOf(words[k]) >= 0 ? 5 : 1;
    }
    return sum;
  }
  function search(box, list) {
    function show() {
      var words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      list.textContent = "";
      if (!words.length) return;
      var found = (window.SM_SEARCH || []).map(function (e) { return [score(words, e), e]; }).filter(function (f) { return f[0]; });
      found.sort(function (a, b) { return b[0] - a[0]; });
      found.slice(0, 12).forEach(function (f) {
        var item = document.createElement("li"), link = document.createElement("a"), small = document.createElement("small");
        link.href = base + f[1].h; link.textContent = f[1].t; small.textContent = f[1].s; link.appendChild(small); item.appendChild(link); list.appendChild(item);
      });
      if (!found.length) { var none = document.createElement("li"); none.textContent = "nothing found"; list.appendChild(none); }
    }
    box.addEventListener("input", show);
    box.addEventListener("keydown", function (e) {
      if (e.key === "Escape") { box.value = ""; show(); }
      if (e.key === "Enter" && list.querySelector("a")) window.location.href = list.querySelector("a").href;
      if (e.key === "ArrowDown" && list.querySelector("a")) { e.preventDefault(); list.querySelector("a").focus(); }
    });
    document.addEventListener("keydown", function (e) { if (e.key === "/" && document.activeElement.tagName !== "INPUT") { e.preventDefault(); box.focus(); } });
    document.addEventListener("click", function (e) { if (!e.target.closest(".search")) list.textContent = ""; });
  }
})();
