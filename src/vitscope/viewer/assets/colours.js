// Colour tables of matplotlib, 256 x RGB: perceptually uniform, safe for the colour-blind; `balance` for signed maps.

const TABLES = {
  inferno:
    "AAAEAQAFAQEGAQEIAgEKAgIMAgIOAwIQBAMSBAMUBQQXBgQZBwUbCAUdCQYfCgciCwckDAgmDQgpDgkrEAktEQowEgoyFAs0FQs3Fgs5GAw8GQw+GwxBHAxDHgxFHwxIIQxKIwxMJAxPJgxRKAtTKQtVKwtXLQtZLwpbMQpcMgpeNApfNglhOAliOQljOwlkPQllPglmQApnQgpoRApoRQppRwtqSQtqSgxrTAxrTQ1sTw1sUQ5sUg5tVA9tVQ9tVxBuWRBuWhFuXBJuXRJuXxNuYRNuYhRuZBVuZRVuZxZuaRZuahdubBhubRhubxlucRluchpudBpudRtudxxteBxteh1tfB1tfR5tfx5sgB9sgiBshCBrhSFrhyFriCJqiiJqjCNpjSNpjyRpkCVokiVokyZnlSZnlydmmCdmmihlmylknSlknypjoCpjoitioyxhpSxgpi1gqC5fqS5eqy9erTBdrjBcsDFbsTJaszJatDNZtjRYtzVXuTVWujZVvDdUvThTvzlSwDpRwTpQwztPxDxOxj1Nxz5MyD9LykBKy0FJzEJIzkNHz0RG0EVF0kZE00dD1EhC1UpB10s/2Ew+2U092k4821A73VE63lI431M34FU24VY14lc041kz5Fox5Vww5l0v514u6GAt6WEr6mMq62Qp62Yo7Gcm7Wkl7mok72wj724h8G8g8XEf8XMd8nQc83Yb83gZ9HkY9XsX9X0V9n4U9oAT94IS94QQ+IUP+IcO+IkM+YsL+YwK+Y4J+pAI+pIH+pQH+5YG+5cG+5kG+5sG+50H/J8H/KEI/KMJ/KUK/KYM/KgN/KoP/KwR/K4S/LAU/LIW/LQY+7Ya+7gd+7of+7wh+74j+sAm+sIo+sQq+sYt+ccv+cky+cs1+M03+M8699E999NA9tVD9tdG9dlJ9dtM9N1P9N9T9OFW8+Na8+Vd8uZh8uhl8upp8ext8e1x8e918fF58vJ98vSC8/WG8/aK9PiO9fmS9vqW+Pua+fyd+v2h/P+k",
  viridis:
    "RAFURAJWRQRXRQVZRgdaRghcRgpdRgteRw1gRw5hRxBjRxFkRxNlSBRnSBZoSBdpSBhqSBpsSBttSBxuSB1vSB9wSCBxSCFzSCN0SCR1SCV2SCZ3SCh4SCl5Ryp6Ryx6Ry17Ry58Ry99RjB+RjJ+RjN/RjSARTWBRTeBRTiCRDmDRDqDRDuEQz2EQz6FQj+FQkCGQkGGQUKHQUSHQEWIQEaIP0eIP0iJPkmJPkqJPkyKPU2KPU6KPE+KPFCLO1GLO1KLOlOLOlSMOVWMOVaMOFiMOFmMN1qMN1uNNlyNNl2NNV6NNV+NNGCNNGGNM2KNM2ONMmSOMmWOMWaOMWeOMWiOMGmOMGqOL2uOL2yOLm2OLm6OLm+OLXCOLXGOLHGOLHKOLHOOK3SOK3WOKnaOKneOKniOKXmOKXqOKXuOKHyOKH2OJ36OJ3+OJ4COJoGOJoKOJoKOJYOOJYSOJYWOJIaOJIeOI4iOI4mOI4qNIouNIoyNIo2NIY6NIY+NIZCNIZGMIJKMIJKMIJOMH5SMH5WLH5aLH5eLH5iLH5mKH5qKHpuKHpyJHp2JH56JH5+IH6CIH6GIH6GHH6KHIKOGIKSGIaWFIaaFIqeFIqiEI6mDJKqDJauCJayCJq2BJ62BKK6AKa9/KrB/LLF+LbJ9LrN8L7R8MbV7MrZ6NLZ5Nbd5N7h4OLl3Orp2O7t1Pbx0P7xzQL1yQr5xRL9wRsBvSMFuSsFtTMJsTsNrUMRqUsVpVMVoVsZnWMdlWshkXMhjXsliYMpgY8tfZcteZ8xcac1bbM1abs5YcM9Xc9BWddBUd9FTetFRfNJQf9NOgdNNhNRLhtVJidVIi9ZGjtZFkNdDk9dBldhAmNg+m9k8ndk7oNo5oto3pds2qNs0qtwyrdwwsN0vst0ttd4ruN4put4ovd8mwN8lwt8jxeAhyOAgyuEfzeEd0OEc0uIb1eIa2OIZ2uMZ3eMY3+MY4uQY5eQZ5+QZ6uUa7OUb7+Uc8eUd9OYe9uYg+OYh++cj/ecl",
  cividis:
    "ACJOACNPACRRACVTACVUACZWACdYAChZAChbACldACpfACphACtiACxkACxmAC1oAC5qAC5sAC9tADBvADBwADFwADFxATJxBTNxCDNwDDRwDzVwEjVwFDZwFjdwGDdvGjhvHDlvHjpvIDpvITtuIzxuJDxuJj1uJz5uKT9uKj9tK0BtLUFtLkFtL0JtMUNtMkNtM0RtNEVsNUVsNkZsOEdsOUhsOkhsO0lsPEpsPUpsPktsP0xsQExsQU1sQk5sQ05sRE9sRVBsRlFsR1FsSFJsSVNsSlNsS1RsTFVsTVVsTlZsT1dsUFdsUVhtUlltU1ptVFptVVttVVxtVlxtV11tWF5tWV5uWl9uW2BuXGFuXWFuXmJuXmNvX2NvYGRvYWVvYmVvY2ZwZGdwZWhwZWhwZmlwZ2pxaGpxaWtxamxxa21ybG1ybG5ybW9ybm9zb3BzcHFzcXJ0cnJ0cnN0c3R1dHR1dXV1dnZ2d3d2d3d3eHh3eXl3enp4e3p4fHt4fXx4fnx4fn14f354gH94gX94goB5g4F5hIJ5hYJ5hoN5h4R4iIV4iYV4ioZ4i4d4jIh4jYh4jol4j4p4kIt4kYt4kox4ko14k454lI53lY93lpB3l5F3mJJ3mZJ3mpN2m5R2nJV2nZV2npZ2n5d1oJh1oZl1opl1o5p0pJt0pZx0ppx0p51zqJ5zqZ9zqqBzq6ByrKFyraJyrqNxr6RxsKVxsaVws6ZwtKdvtahvtqlvt6luuKpuuattuqxtu61tvK5sva5svq9rv7BrwLFqwbJqwrNpw7NpxLRoxbVoxrZnx7dnyLhmyblly7llzLpkzbtjzrxjz71i0L5i0b9h0sBg08Bf1MFf1cJe1sNd18Rc2cVc2sZb28da3MhZ3chY3slY38pX4MtW4cxV4s1U5M5T5c9S5tBR59FQ6NJP6dNO6tNM69RL7dVK7tZJ79dI8NhG8dlF8tpE89tC9dxB9t0/994++N88+eA6++E4/OI2/eM0/uQ0/uU1/uY2/ug4",
  balance:
    "BTBhBjJkBzRnCDZqCThtCjtwDD1zDT92DkF5D0N7EEV+EUeBEkmEE0yHFE6KFVCNF1KQGFSTGVaWGliZG1qcHFyfHV+iHmGlH2OoIGWrImesI2mtJGquJmyvJ26wKHCxKnGyK3OzLHW0Lne1L3m1MHq2Mny3M364NIC5NoG6N4O7OIW8Ooe9O4i+PIq+Poy/P47AQI/BQpHCQ5PDRpXESZfFTJnGT5vHUp3IVp/JWaHKXKPLX6XNYqfOZanPaKvQa6zRbq7ScbDTdbLUeLTVe7bWfrjXgbrYhLzZh77aisDbjcLckMTdk8belsffmMjgm8ngncvhoMzios3jpc7jp9DkqdHlrNLlrtPmsdXns9bottfouNjpu9rqvdvqwNzrwt3sxd/sx+DtyuHuzOLvz+Tv0eXw0ubw1Obx1efx1+jx2Onx2uny2+ry3evy3uvy4Ozz4e3z4+3z5O705u/05/D06fD06vH17PL17fL17/P18PT28vX28/X29fb39vf39/b29/X0+PTy+PPw+PLv+PHt+fDr+e/p+e7n+e3l+evj+urh+unf+uje+ufc++ba++XY++TW++PU/OLS/ODQ/N/P/N7N/d3L/dzJ/dvH/dnE/NfC/NW//NO8+9C5+863+8y0+sqx+siv+cas+cSp+cKn+L+k+L2h+Lue97mc97eZ97WW9rOU9rGR9q+O9ayL9aqJ9aiG9KaD86SB8qF/8Z598Jx775l57pZ37JN065Fy6o5w6Ytu6Ils5oZq5YNo5IBm435k4nti4Xhg33Ze3nNc3XBZ3G5X22tV2mhT2GVR12NP1mBN1V1M01pK0lhJ0FVIz1JGzk9FzExEy0lCyUdByERAxkE+xT49xDs8wjg6wTY5vzM4vjA2vS01uyo0uigyuCUxtyIwth8utBwtsxkssRgrrhcqqxYqqBUppRQpohMonxIonBEnmRAnlg8nkw4mkA0mjQwligslhwokhAkkgQgjfwgjfAcieQYidgUhcwQhcAMgbQIgagEfZwAf",
};

export const COLOURS = [...Object.keys(TABLES), "grey"];
const made = new Map();

// 256 x RGB of one table.
export function coloursOf(name) {
  const read = () => Uint8Array.from(atob(TABLES[name] ?? TABLES.inferno), (c) => c.charCodeAt(0));
  if (!made.has(name)) made.set(name, name === "grey" ? Uint8Array.from({ length: 768 }, (_, i) => i / 3) : read());
  return made.get(name);
}

// The values that become the coldest and the hottest colour, and what that is called: as `render.raster.limits`.
export function limits(values, norm, signed) {
  const sorted = Float32Array.from(values).sort(),
    n = sorted.length;
  const at = (share) => sorted[Math.floor(share * (n - 1))];
  let kind = norm === "auto" ? (signed ? "positive" : "range") : norm;
  if (kind === "positive" && !(at(0.99) > 0 && sorted[0] < sorted[n - 1])) kind = "robust";
  if (kind === "balance") {
    const most = Math.max(Math.abs(at(0.01)), Math.abs(at(0.99))) || 1;
    return { kind, low: -most, high: most };
  }
  if (kind === "robust") return { kind, low: at(0.01), high: at(0.99) };
  if (kind === "positive") return { kind, low: 0, high: at(0.99) };
  if (kind === "share") return { kind, low: 0, high: sorted[n - 1] };
  return { kind: "range", low: sorted[0], high: sorted[n - 1] };
}

export function levelOf(value, low, high) {
  return high > low ? Math.max(0, Math.min(255, Math.round(((value - low) / (high - low)) * 255))) : 0;
}
