// What all pages need in the browser.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.tracelens = {
  clicked: (n) => Boolean(n),
};

// The verdict that came with the page goes when the page itself is drawn.
(() => {
  const done = () => {
    if (document.querySelector("#page > *")) document.getElementById("first")?.remove();
    else requestAnimationFrame(done);
  };
  if (document.getElementById("first")) done();
})();

// The tables follow the page's colour scheme, which Mantine keeps on the root element.
(() => {
  const root = document.documentElement;
  const follow = () => {
    document.body.dataset.agThemeMode = root.dataset.mantineColorScheme || "light";
  };
  new MutationObserver(follow).observe(root, {
    attributes: true,
    attributeFilter: ["data-mantine-color-scheme"],
  });
  follow();
})();
