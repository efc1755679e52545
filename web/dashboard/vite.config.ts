import { fileURLToPath } from 'node:url';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

// The server that `npm run dev` and `npm run preview` talk to.
const server = process.env.NEXUS_SERVER ?? 'http://127.0.0.1:8000';
const proxy = {
  '/api': server,
  '/connection': { target: server, ws: true },
};

export default defineConfig({
  base: '/',
  plugins: [react()],
  resolve: {
    alias: {
      // The package from its source, so that page and package are always of one commit.
      'nexus-push-react': fileURLToPath(new URL('../nexus-push-react/src/index.ts', import.meta.url)),
    },
    // The package's sources import react too; there must be one copy.
    dedupe: ['react', 'react-dom'],
  },
  server: { proxy },
  preview: { proxy },
  build: {
    // The server binary embeds this folder.
    outDir: '../embedded',
    emptyOutDir: true,
    assetsDir: 'assets',
    sourcemap: false,
    target: 'es2022',
    // Inlined fonts or images would be data: URLs; the policy allows them for images only, so nothing is inlined.
    assetsInlineLimit: 0,
    // The polyfill would be needed by browsers without modulepreload only; those of es2022 have it.
    modulePreload: { polyfill: false },
  },
  test: {
    environment: 'node',
    include: ['test/**/*.test.{ts,tsx}'],
  },
});
