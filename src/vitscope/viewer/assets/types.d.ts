// What scripts find before they run: the catalogues, and the element that a page's viewer is mounted in.

declare const TEXTS: Record<string, Record<string, string>>;

interface HTMLElement {
  viewer?: { state: any; ctx: any; destroy(): void; watch(heard: (state: any, before: any) => void): void } | null;
}
